use std::sync::{
    Mutex,
    atomic::AtomicBool,
    mpsc::{Sender, channel},
};

use super::*;

/// A file that takes a line, fails, or waits until it is let go.
struct Disk {
    full: Arc<AtomicBool>,
    text: Arc<Mutex<String>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.full.load(SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.text.lock().unwrap().push_str(str::from_utf8(bytes).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader takes a line when it is told to.
struct Stalled(Receiver<()>);

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start(out: impl Write + Send + 'static) -> (Arc<Queue>, Receiver<LeftOut>) {
    let (queue, lines) = Queue::new();
    let writer = Writer::new(out, Arc::clone(&queue));
    let (tell, told): (Sender<LeftOut>, _) = channel();
    thread::spawn(move || writer.run(&lines, |left_out| tell.send(left_out).unwrap_or(())));
    (queue, told)
}

#[test]
fn a_level_has_so_many_lines_a_second_and_leaves_the_others_theirs() {
    let (queue, _lines) = Queue::new();
    let limited = Limited::new(queue.clone());
    let at = |after_ms| limited.began + Duration::from_millis(after_ms);
    for _ in 0..LINES_PER_S_MAX {
        assert!(limited.admit(Level::DEBUG, at(10)));
    }
    assert!(!limited.admit(Level::DEBUG, at(20)) && !limited.admit(Level::DEBUG, at(990)));
    assert!(limited.admit(Level::WARN, at(990)) && limited.admit(Level::ERROR, at(990)));
    assert!(limited.admit(Level::DEBUG, at(1_010)));
    // A thread that looked at its clock a moment before.
    assert!(limited.admit(Level::DEBUG, at(999)));
    assert_eq!(queue.left_out(), LeftOut { over_rate: 2, ..LeftOut::default() });
}

#[test]
fn a_reader_that_stalls_costs_lines_and_nothing_else() {
    let (go, stalled) = channel();
    let (queue, told) = start(Stalled(stalled));
    let line = [b'x'; 1_000];
    let began = Instant::now();
    for _ in 0..10_000 {
        queue.put(&line, false);
    }
    // Ten thousand waits would be seen, however slow the machine.
    assert!(began.elapsed() < Duration::from_secs(10));
    let kept = ((BYTES_MAX - BYTES_FOR_ERRORS) / line.len()) as u64;
    assert_eq!(queue.left_out(), LeftOut { queue_full: 10_000 - kept, ..LeftOut::default() });
    queue.put(&line, true);
    assert_eq!(queue.left_out().queue_full, 10_000 - kept, "an error still has room");
    assert!(!queue.flush(Duration::from_millis(20)), "the end of the process does not wait for ever");
    drop(go);
    assert!(queue.flush(Duration::from_secs(60)));
    assert_eq!(told.recv().unwrap().queue_full, 10_000 - kept);
}

#[test]
fn a_full_disk_costs_lines_and_is_told_when_there_is_room() {
    let (full, text) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(String::new())));
    let (queue, told) = start(Disk { full: full.clone(), text: text.clone() });
    queue.put(b"one\n", false);
    queue.put(b"two\n", true);
    assert!(queue.flush(Duration::from_secs(60)), "what cannot be written is not waited for");
    full.store(false, SeqCst);
    queue.put(b"three\n", false);
    assert!(queue.flush(Duration::from_secs(60)));
    assert_eq!(*text.lock().unwrap(), "\nthree\n");
    assert_eq!(told.recv().unwrap(), LeftOut { not_written: 2, ..LeftOut::default() });
}

#[test]
fn a_long_line_is_cut() {
    let (queue, lines) = Queue::new();
    queue.put(&[b'x'; LINE_BYTES_MAX + 1], false);
    let line = lines.recv().unwrap();
    assert_eq!((line.len(), line.last()), (LINE_BYTES_MAX, Some(&b'\n')));
}
