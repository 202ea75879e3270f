//! Addresses of connects that slots make by themselves, while the kernel may read them.

use std::net::SocketAddr;

use rustix::net::SocketAddrAny;

/// Addresses of one connect. The kernel reads them.
pub(super) struct Addresses {
    pub(super) source: SocketAddrAny,
    pub(super) target: SocketAddrAny,
}

/// The addresses of connects in the kernel, by cell; boxed to stay where they are.
#[derive(Default)]
pub(super) struct Connects {
    // In the list itself they would move when it grows.
    #[expect(clippy::vec_box, reason = "the kernel reads them where they are")]
    cells: Vec<Box<Addresses>>,
    free: Vec<u32>,
}

impl Connects {
    /// Keeps both addresses where they are until [`Self::end`] of the cell returned.
    pub(super) fn start(&mut self, source: SocketAddr, target: SocketAddr) -> u32 {
        let addresses = Addresses { source: source.into(), target: target.into() };
        if let Some(cell) = self.free.pop() {
            *self.cells[cell as usize] = addresses;
            return cell;
        }
        self.cells.push(Box::new(addresses));
        self.cells.len() as u32 - 1
    }

    /// The addresses of a cell; they stay where they are.
    pub(super) fn at(&self, cell: u32) -> &Addresses {
        &self.cells[cell as usize]
    }

    /// The connect with this cell has completed.
    pub(super) fn end(&mut self, cell: u32) {
        self.free.push(cell);
    }
}
