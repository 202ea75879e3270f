//! The fake driver and its simulated peers.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use roost_gateway::{
    op::LinkAddress,
    sim::{ConnId, Dial, Endpoint, FakeDriver, Faults, NoActors, PeerRead, Rng, World},
};

use crate::rig::{Peers, Rig, SLOTS, SLOTS_PER_RING, Seen, pools};

struct SimulatedPeers {
    world: Rc<RefCell<World>>,
    conns: Vec<ConnId>,
    broken: bool,
    ordered: bool,
}

/// Runs a contract on a calm kernel, and on some that are late and reorder what they may.
pub(crate) fn everywhere(contract: impl Fn(&mut Rig<'_>)) {
    run(0, Faults::calm(), &contract);
    for seed in 1..20 {
        let unkind = Faults {
            completion_late: 500,
            completion_delay_us: 2_000,
            reorder: 500,
            reap_max: 4,
            cancel_loses: 400,
            shutdown_delay_us: 3_000,
            early_return: 200,
            flush_early: 200,
            ..Faults::calm()
        };
        run(seed, unkind, &contract);
    }
}

/// Runs a contract on a kernel that releases slots in order.
pub(crate) fn on_an_old_kernel(contract: impl Fn(&mut Rig<'_>)) {
    run(0, Faults { ordered_release: true, ..Faults::calm() }, &contract);
}

fn run(seed: u64, faults: Faults, contract: &impl Fn(&mut Rig<'_>)) {
    let ordered = faults.ordered_release;
    let mut world = World::new(Rng::new(seed), 1, SLOTS, SLOTS_PER_RING, faults);
    for (port, dial) in [(1, Dial::Accept), (2, Dial::Refuse), (3, Dial::BlackHole)] {
        let address = address(port);
        world.endpoints.push(Endpoint { address, dial, accepted: VecDeque::new(), owner: 0 });
    }
    let world = Rc::new(RefCell::new(world));
    let actors = Rc::new(RefCell::new(NoActors));
    let mut driver = FakeDriver::new(Rc::clone(&world), actors, &pools(), (SLOTS, SLOTS_PER_RING));
    let mut peers = SimulatedPeers { world: Rc::clone(&world), conns: Vec::new(), broken: false, ordered };
    contract(&mut Rig::new(&mut driver, &mut peers));
    let violations = std::mem::take(&mut world.borrow_mut().violations);
    assert!(violations.is_empty(), "the contract broke a rule unawares: {violations:?}");
}

fn address(port: u16) -> LinkAddress {
    LinkAddress::Tcp(([127, 0, 0, 1], port).into())
}

impl SimulatedPeers {
    fn add(&mut self, conn: ConnId) -> usize {
        self.conns.push(conn);
        self.conns.len() - 1
    }
}

impl Peers for SimulatedPeers {
    fn connect(&mut self) -> usize {
        let peer = "192.0.2.7:4000".parse().expect("an address");
        let conn = self.world.borrow_mut().connect(0, 0, Some(peer)).expect("room in the backlog");
        self.add(conn)
    }

    fn take_link(&mut self) -> Option<usize> {
        let conn = self.world.borrow_mut().endpoints[0].accepted.pop_front()?;
        Some(self.add(conn))
    }

    fn link_address(&self) -> LinkAddress {
        address(1)
    }

    fn dead_address(&self) -> LinkAddress {
        address(2)
    }

    fn silent_address(&self) -> Option<LinkAddress> {
        Some(address(3))
    }

    fn write(&mut self, peer: usize, bytes: &[u8]) -> bool {
        let written = self.world.borrow_mut().net.peer_write(self.conns[peer], bytes);
        assert!(written.is_none_or(|written| written == bytes.len()));
        written.is_some()
    }

    fn read(&mut self, peer: usize, bytes: &mut Vec<u8>) -> Seen {
        match self.world.borrow_mut().net.peer_read(self.conns[peer], usize::MAX) {
            PeerRead::Data(data) => {
                bytes.extend(&data);
                Seen::Bytes(data.len())
            }
            PeerRead::Nothing => Seen::Nothing,
            PeerRead::Eof => Seen::End,
            PeerRead::Reset => Seen::Reset,
        }
    }

    fn shutdown(&mut self, peer: usize) {
        self.world.borrow_mut().net.peer_shutdown(self.conns[peer]);
    }

    fn close(&mut self, peer: usize) {
        self.world.borrow_mut().net.peer_close(self.conns[peer]);
    }

    fn reset(&mut self, peer: usize) {
        self.world.borrow_mut().net.peer_reset(self.conns[peer]);
    }

    fn forgive(&mut self) {
        let noted = std::mem::take(&mut self.world.borrow_mut().violations);
        assert!(!noted.is_empty(), "the fake has not noticed that a rule was broken");
        self.broken = true;
    }

    fn releases_in_order(&self) -> bool {
        self.ordered
    }

    fn is_direct(&self) -> bool {
        true
    }
}
