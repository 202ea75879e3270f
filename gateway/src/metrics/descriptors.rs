//! How many descriptors the process has open.
//!
//! A walk over `/proc/self/fd` costs by the number of clients where each has a descriptor, on the
//! thread that health needs, and leaves an inode in the kernel's memory for each. So nothing here
//! walks over clients' descriptors, but once at the start, when there are none.

use std::{fs, path::Path};

const FDS: &str = "/proc/self/fd";

#[derive(Clone, Copy, Debug)]
pub(super) enum Descriptors {
    /// The size of the directory is the number (Linux 6.2).
    Size,
    /// Clients have none: so few are open that they can be counted.
    Few,
    /// Clients have one each: so many others were open at the start.
    Others(u64),
    /// `/proc` is not there.
    Unknown,
}

impl Descriptors {
    /// How to count from now on. `of_clients` is how many descriptors clients have by now; none
    /// where they take none.
    pub(super) fn of_process(of_clients: Option<u64>) -> Self {
        if size().is_some() { Self::Size } else { Self::without_size(of_clients) }
    }

    fn without_size(of_clients: Option<u64>) -> Self {
        match (count(), of_clients) {
            (None, _) => Self::Unknown,
            (Some(_), None) => Self::Few,
            (Some(open), Some(of_clients)) => Self::Others(open.saturating_sub(of_clients)),
        }
    }

    /// How many are open. `of_clients` as above.
    pub(super) fn open(self, of_clients: Option<u64>) -> Option<u64> {
        match self {
            Self::Size => size(),
            Self::Few => count(),
            Self::Others(others) => Some(others + of_clients.unwrap_or(0)),
            Self::Unknown => None,
        }
    }
}

/// Before Linux 6.2 the directory has no size.
fn size() -> Option<u64> {
    let size = rustix::fs::stat(Path::new(FDS)).ok()?.st_size;
    u64::try_from(size).ok().filter(|size| *size > 0)
}

fn count() -> Option<u64> {
    // The directory that is being read has a descriptor, too.
    fs::read_dir(FDS).ok().map(|fds| fds.count() as u64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process open and close descriptors, too, but not so many.
    #[test]
    fn all_ways_of_counting_say_about_the_same() {
        let many: Vec<_> = (0..500).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let open = count().unwrap();
        assert!(open >= many.len() as u64);
        let near = |other: u64| assert!(open.abs_diff(other) < 200, "{other} instead of {open}");
        near(Descriptors::without_size(None).open(None).unwrap());
        near(Descriptors::of_process(Some(7)).open(Some(7)).unwrap());
        near(Descriptors::without_size(Some(100)).open(Some(100)).unwrap());
        near(Descriptors::without_size(Some(500)).open(Some(500)).unwrap());
    }

    #[test]
    fn where_clients_have_descriptors_they_are_counted_and_not_walked() {
        let Descriptors::Others(others) = Descriptors::without_size(Some(0)) else { panic!("not counted") };
        assert_eq!(Descriptors::Others(others).open(Some(1_000_000)), Some(others + 1_000_000));
    }
}
