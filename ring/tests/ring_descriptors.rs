//! How many file descriptors a driver takes. A process of its own, because it counts them all.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    time::Duration,
};

use roost_ring::{
    Config, Features, FeaturesMax, UringDriver,
    op::{Driver, Io, Op, Sock, Token, Wait},
};

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Runs one op to its completion.
fn run(driver: &mut UringDriver, op: Op) {
    driver.submit(Token::new(1, 0, 0), op);
    let mut completions = Vec::new();
    while completions.is_empty() {
        driver.turn(Wait::AtMost(Duration::from_secs(60)), &mut completions).expect("a turn");
    }
    assert_eq!(completions[0].result, 0);
}

#[test]
fn rings_take_two_descriptors_each_and_direct_clients_none() {
    const RINGS: usize = 8;
    const CLIENTS: u32 = 64;
    for max in [FeaturesMax::Base, FeaturesMax::Direct] {
        let features = Features::detect(max).expect("io_uring");
        let before = open_files();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let config = Config {
            ring_slots_max: CLIENTS / RINGS as u32,
            ..Config::new(CLIENTS, Vec::new(), vec![listener.into()])
        };
        let mut driver = UringDriver::new(&features, config).expect("a driver");
        let mut rings = 1;
        while driver.slots_started() < CLIENTS {
            driver.start_slots().expect("a ring");
            rings += 1;
        }
        assert_eq!(rings, if features.banks() { RINGS } else { 1 });
        let own = open_files() - before;
        // The listener and the waker, a ring and an eventfd each; ring 0 needs no eventfd.
        assert_eq!(own, 2 + 2 * rings - 1);
        let clients: Vec<TcpStream> = (0..CLIENTS)
            .map(|slot| {
                let client = TcpStream::connect(address).expect("a connection");
                run(&mut driver, Op::Accept { slot, listener: 0, expected: false });
                client
            })
            .collect();
        let expected = if features.direct() { 0 } else { clients.len() };
        assert_eq!(open_files() - before - own - clients.len(), expected, "{features}");
        for slot in 0..CLIENTS / 2 {
            run(&mut driver, Op::Close { sock: Sock::Client(slot) });
        }
        assert_eq!(open_files() - before - own - clients.len(), expected / 2, "{features}");
        drop((driver, clients));
        assert_eq!(open_files(), before, "{features}");
    }
}
