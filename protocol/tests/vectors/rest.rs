//! `hash.json`, `rendezvous.json`, `proof.json`, `reasons.json`, and the tables of SPEC.md.

use roost_protocol::{
    Reason,
    auth::{Side, prove, verify},
    edge,
    hash::{PARTITIONS, mix, partition, partition_of, rendezvous, routing_hash, weight, worker_hash},
    link::{self, LinkHello, LinkType, LinkWelcome},
};
use serde_json::Value;

use crate::{array, bytes, for_each, load, text, u16_of, u64_of};

#[test]
fn hashes() {
    let file = load("hash.json");
    for_each(&file["mix"], |case| assert_eq!(mix(u64_of(&case["input"])), u64_of(&case["output"])));
    for_each(&file["keys"], |case| {
        let key = bytes(&case["key"]);
        let (stated, hash) = (u16_of(&case["partition"]), u64_of(&case["routing_hash"]));
        assert_eq!(partition(&key), stated);
        assert_eq!(routing_hash(&key), hash);
        assert_eq!(partition_of(hash), stated);
        // The steps on the way, too, so that whoever implements this sees where it goes wrong.
        let short = u32::from_str_radix(text(&case["fnv1a_32"]), 16).unwrap();
        assert_eq!(short % PARTITIONS, u32::from(stated));
        assert_eq!(u64::from(stated) << 50 | mix(u64_of(&case["fnv1a_64"])) >> 14, hash);
    });
    for_each(&file["workers"], |case| {
        let hash = u64_of(&case["worker_hash"]);
        assert_eq!(worker_hash(text(&case["name"]).as_bytes()), hash);
        assert_eq!(mix(u64_of(&case["fnv1a_64"])), hash);
    });
}

#[test]
fn owners() {
    let file = load("rendezvous.json");
    for_each(&file["cases"], |case| {
        let partition = u16_of(&case["partition"]);
        let names: Vec<&str> = case["workers"].as_array().unwrap().iter().map(text).collect();
        let hashes: Vec<u64> = names.iter().map(|name| worker_hash(name.as_bytes())).collect();
        let weights: Vec<u64> = hashes.iter().map(|&worker| weight(partition, worker)).collect();
        let expected: Vec<u64> = case["weights"].as_array().unwrap().iter().map(u64_of).collect();
        assert_eq!(weights, expected);
        let owner = rendezvous(partition, hashes.iter().copied().enumerate()).map(|index| names[index]);
        assert_eq!(owner, case["owner"].as_str());
        // The order in which workers are listed does not matter.
        let reversed = rendezvous(partition, hashes.iter().copied().enumerate().rev());
        assert_eq!(reversed.map(|index| names[index]), owner);
    });
}

/// R-5.
#[test]
fn of_workers_with_equal_hashes_the_last_wins() {
    assert_eq!(rendezvous(7, [(0, 1), (1, 1)]), Some(1));
}

#[test]
fn proofs() {
    let file = load("proof.json");
    for_each(&file["cases"], |case| {
        let secret = bytes(&case["secret"]);
        let (hello, welcome) = (bytes(&case["hello"]), bytes(&case["welcome"]));
        assert_eq!(hello.len(), LinkHello::PAYLOAD_BYTES);
        assert_eq!(welcome.len(), LinkWelcome::PROVEN_BYTES);
        let decoded = LinkWelcome::decode(&[welcome.as_slice(), &[0]].concat()).expect("it is whole");
        assert_eq!(decoded.encode_proven(), welcome);
        assert_eq!(LinkHello::decode(&hello).expect("it is whole").encode_payload(), hello);
        for (side, name) in [(Side::Worker, "worker"), (Side::Gateway, "gateway")] {
            let mut proof: [u8; 32] = array(&case[name]);
            assert_eq!(prove(&secret, side, &hello, &welcome), proof);
            assert!(verify(&secret, side, &hello, &welcome, &proof));
            proof[31] ^= 1;
            assert!(!verify(&secret, side, &hello, &welcome, &proof));
        }
    });
}

#[test]
fn reasons() {
    let file = load("reasons.json");
    for_each(&file["reasons"], |case| {
        let code = u16_of(&case["code"]).try_into().unwrap();
        assert_eq!(Reason::from_code(code).expect("a reason").label(), text(&case["label"]));
    });
    assert_eq!(file["reasons"].as_array().map(Vec::len), Some(Reason::ALL.len()));
}

/// The rows of a SPEC.md table whose first two columns are a code and a name.
fn spec_rows(from: &str, to: &str) -> Vec<(u8, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SPEC.md");
    let spec = std::fs::read_to_string(path).unwrap();
    let (_, section) = spec.split_once(from).expect("the section is there");
    let (section, _) = section.split_once(to).expect("the section ends");
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let code = cells.next()?.parse().ok()?;
        Some((code, cells.next()?.trim_matches('`').to_owned()))
    };
    section.lines().filter_map(row).collect()
}

#[test]
fn spec_lists_every_reason_and_every_link_type() {
    let reasons: Vec<(u8, String)> =
        Reason::ALL.iter().map(|reason| (reason.code(), reason.label().to_owned())).collect();
    assert_eq!(spec_rows("\n# Close reasons\n", "\n# What is delivered"), reasons);
    let rows = spec_rows("| code | type | from | seq.", "Types from 16 on are");
    let names: Vec<(u8, String)> = rows.iter().map(|(code, name)| (*code, name.replace('_', ""))).collect();
    let types: Vec<(u8, String)> =
        LinkType::ALL.iter().map(|t| (*t as u8, format!("{t:?}").to_uppercase())).collect();
    assert_eq!(names, types);
}

/// Makes sure that no file is left out of these tests.
#[test]
fn every_vector_file_is_read() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".json"))
        .collect();
    names.sort();
    let known = ["edge.json", "hash.json", "link.json", "proof.json", "reasons.json", "rendezvous.json"];
    assert_eq!(names, known);
    assert!(names.iter().all(|name| load(name) != Value::Null));
}

/// The byte strings of an example in SPEC.md, one per line.
fn spec_example(heading: &str) -> Vec<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SPEC.md");
    let spec = std::fs::read_to_string(path).unwrap();
    let (_, section) = spec.split_once(heading).expect("the section is there");
    let block = section.split("```").nth(1).expect("it has an example");
    let line = |line: &str| {
        // Who speaks, perhaps a position of one digit, then bytes until there is text again.
        let words = line.split_whitespace().skip(1).skip_while(|word| word.len() == 1);
        let digits: String = words.take_while(|word| word.bytes().all(|b| b.is_ascii_hexdigit())).collect();
        bytes(&Value::String(digits))
    };
    block.lines().map(line).filter(|bytes| !bytes.is_empty()).collect()
}

#[test]
fn examples_in_the_spec_are_right() {
    let edge_lines = spec_example("\n## 1.7 An example\n");
    assert_eq!(edge_lines.len(), 7);
    let mut decoder = edge::Decoder::new(edge::FRAME_BYTES_MAX_DEFAULT);
    for line in edge_lines {
        let check = |frame_type, frame: &[u8]| {
            edge::Frame::decode_whole(frame_type, frame).unwrap();
        };
        decoder.feed(&line, check).unwrap();
        assert_eq!(decoder.pending_bytes(), 0);
    }
    let link_lines = spec_example("\n## 3.11 An example\n");
    assert_eq!(link_lines.len(), 10);
    for line in link_lines {
        let Ok(link::Split::Frame { header, payload }) = link::split(&line, 65_536) else {
            panic!("no frame: {line:x?}");
        };
        assert_eq!(header.frame_bytes(), line.len());
        let frame = link::Frame::decode(&header, payload, edge::FRAME_BYTES_MAX_DEFAULT).unwrap();
        if let link::Frame::Open(open) = frame {
            assert_eq!(routing_hash(open.key), open.routing_hash);
        }
    }
}
