//! An echo server on kernel sockets, which says afterwards how its connections ended.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::TARGET;

/// What becomes of a connection at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) accepted: u64,
    pub(super) fins: u64,
    pub(super) resets: u64,
}

/// An echo server that begins nothing by itself; ends with `stop`.
pub(super) struct EchoServer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Ends>>,
}

impl EchoServer {
    /// Starts it in the namespace of the calling thread.
    pub(super) fn start() -> Self {
        let listener = listener();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&listener, &stopped));
        Self { stop, thread: Some(thread) }
    }

    pub(super) fn finish(mut self) -> Ends {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("finished once").join().expect("the server has not panicked")
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

pub(super) fn listener() -> TcpListener {
    // std listens with a backlog of 128: no SYN is to be lost for that.
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &TARGET).unwrap();
    rustix::net::listen(&socket, 4096).unwrap();
    TcpListener::from(socket)
}

fn serve(listener: &TcpListener, stop: &AtomicBool) -> Ends {
    let mut ends = Ends::default();
    let mut streams: Vec<(TcpStream, VecDeque<u8>)> = Vec::new();
    while !(stop.load(Ordering::Relaxed) && streams.is_empty()) {
        let mut waits = vec![PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        waits.extend(streams.iter().map(|(stream, unsent)| {
            let out = if unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN | out)
        }));
        poll(&mut waits, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })).unwrap();
        let ready: Vec<bool> = waits.iter().map(|wait| !wait.revents().is_empty()).collect();
        drop(waits);
        let mut at = 0;
        streams.retain_mut(|(stream, unsent)| {
            at += 1;
            !ready[at] || echo(stream, unsent, &mut ends)
        });
        while let Some(stream) = accept(listener) {
            ends.accepted += 1;
            streams.push((stream, VecDeque::new()));
        }
    }
    ends
}

fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(true).unwrap();
            Some(stream)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

/// False when the connection is over.
fn echo(stream: &mut TcpStream, unsent: &mut VecDeque<u8>, ends: &mut Ends) -> bool {
    match pass_on(stream, unsent) {
        Ok(true) => true,
        Ok(false) => {
            ends.fins += 1;
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            ends.resets += 1;
            false
        }
    }
}

/// Reads once and writes what the peer takes; false at the end of its stream.
fn pass_on(stream: &mut TcpStream, unsent: &mut VecDeque<u8>) -> std::io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let open = match stream.read(&mut buffer) {
        Ok(count) => {
            unsent.extend(&buffer[..count]);
            count > 0
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Err(error) => return Err(error),
    };
    while !unsent.is_empty() {
        match stream.write(unsent.as_slices().0) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(open)
}
