//! `roost.example.toml` is the documentation of the keys: it must name all of them, say the truth
//! about their defaults, and describe each.
#![forbid(unsafe_code)]

use roost_gateway::config::{Config, KEYS, When};

const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../roost.example.toml"));

#[test]
fn the_example_is_the_defaults() {
    let parsed: Config = toml::from_str(EXAMPLE).unwrap();
    assert_eq!(parsed, Config::default());
}

#[test]
fn the_example_names_every_key_and_says_when_it_takes_effect() {
    let table: toml::Table = EXAMPLE.parse().unwrap();
    assert_eq!(table.len(), KEYS.len());
    for key in KEYS {
        assert!(table.contains_key(key.name), "{} is missing", key.name);
        let at = EXAMPLE.lines().position(|line| line.starts_with(&format!("{} = ", key.name))).unwrap();
        let lines: Vec<_> = EXAMPLE.lines().collect();
        let comment: Vec<_> = lines[..at].iter().rev().skip_while(|line| !line.starts_with('#')).collect();
        let block = comment.iter().take_while(|line| line.starts_with('#')).map(|line| **line);
        let text = block.collect::<Vec<_>>().join(" ");
        let marker = if key.when == When::Live { "[live]" } else { "[start]" };
        assert!(text.contains(marker), "{}: the comment above does not say {marker}", key.name);
    }
}
