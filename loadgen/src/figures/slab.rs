//! `/proc/slabinfo`: kernel objects in use, by cache (root only).

use std::{collections::BTreeMap, fs};

use serde::Serialize;

/// One slab cache.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cache {
    /// Objects in use.
    pub objects: u64,
    /// Bytes of memory per object: a slab's pages divided by the objects that fit into it, so
    /// that what a slab wastes at its end is not forgotten.
    pub object_bytes: f64,
}

/// How a cache grew between two readings, per connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// The cache.
    pub cache: String,
    /// Objects per connection.
    pub objects: f64,
    /// Bytes per connection.
    pub bytes: f64,
    /// Whether connections use this cache at all; the others belong to whatever else the machine
    /// does, and are shown but not summed.
    pub counted: bool,
}

/// Caches that hold what a connection consists of: sockets, files, io_uring requests and poll
/// entries, buffers, and the general caches that hold the rest.
const OF_CONNECTIONS: [&str; 17] = [
    "TCP",
    "TCPv6",
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
    "request_sock_TCP",
    "request_sock_TCPv6",
    "tw_sock_TCP",
    "tw_sock_TCPv6",
    "sock_inode_cache",
    "filp",
    "dentry",
    "io_kiocb",
    "eventpoll_epi",
    "eventpoll_pwq",
    "kmalloc-",
    "lsm_",
    "skbuff_",
];

fn is_of_connections(cache: &str) -> bool {
    OF_CONNECTIONS.iter().any(|&name| cache == name || name.ends_with(['-', '_']) && cache.starts_with(name))
}

/// Reads all caches; none where the file may not be read.
pub fn read() -> Option<BTreeMap<String, Cache>> {
    parse(&fs::read_to_string("/proc/slabinfo").ok()?)
}

fn parse(text: &str) -> Option<BTreeMap<String, Cache>> {
    let mut lines = text.lines();
    lines.next().filter(|line| line.starts_with("slabinfo - version: 2"))?;
    let page_bytes = rustix::param::page_size() as f64;
    let caches = lines.filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let name = fields.next()?;
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (objects, _all, _size, per_slab, pages) = (number()?, number()?, number()?, number()?, number()?);
        Some((
            name.to_owned(),
            Cache { objects, object_bytes: pages as f64 * page_bytes / per_slab.max(1) as f64 },
        ))
    });
    Some(caches.collect())
}

/// What grew from `before` to `after`, per connection, the largest first; caches that changed by
/// less than a thousandth of an object per connection are left out.
pub fn growth(
    before: &BTreeMap<String, Cache>,
    after: &BTreeMap<String, Cache>,
    connections: u64,
) -> Vec<Growth> {
    let per = connections.max(1) as f64;
    let mut all: Vec<_> = after
        .iter()
        .map(|(name, cache)| {
            let had = before.get(name).map_or(0, |cache| cache.objects);
            let objects = (cache.objects as f64 - had as f64) / per;
            Growth {
                cache: name.clone(),
                objects,
                bytes: objects * cache.object_bytes,
                counted: is_of_connections(name),
            }
        })
        .filter(|growth| growth.objects.abs() >= 0.001)
        .collect();
    all.sort_by(|a, b| b.bytes.total_cmp(&a.bytes));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables
TCP                  100    104   2368   13    8 : tunables    0    0    0 : slabdata 8 8 0
filp                 500    512    192   21    1 : tunables    0    0    0 : slabdata 25 25 0
";

    #[test]
    fn growth_counts_whole_slabs() {
        let before = parse(TEXT).unwrap();
        let after = parse(&TEXT.replace("  100    104", " 1100   1105")).unwrap();
        let growth = growth(&before, &after, 1000);
        assert_eq!(growth.len(), 1);
        assert_eq!((growth[0].cache.as_str(), growth[0].objects), ("TCP", 1.0));
        assert!(
            growth[0].counted && is_of_connections("kmalloc-cg-32") && !is_of_connections("ext4_inode_cache")
        );
        assert!((growth[0].bytes - 8.0 * 4096.0 / 13.0).abs() < 0.01);
    }

    #[test]
    fn another_version_is_not_guessed_at() {
        assert_eq!(parse("slabinfo - version: 3.0\n"), None);
        assert_eq!(parse(""), None);
    }
}
