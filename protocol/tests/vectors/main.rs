//! The golden vectors under `vectors/`, read both ways: bytes to values, and values to bytes.

mod edge;
mod link;
mod rest;

use serde_json::Value;

/// A vector file.
fn load(name: &str) -> Value {
    let path = format!("{}/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs `check` on every case of an array, naming the case that fails.
fn for_each(array: &Value, check: impl Fn(&Value)) {
    let cases = array.as_array().expect("an array of cases");
    assert!(!cases.is_empty(), "no cases");
    for (index, case) in cases.iter().enumerate() {
        let name = case.get("name").and_then(Value::as_str).unwrap_or("without a name");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case)));
        assert!(result.is_ok(), "vector {index} ({name}) fails");
    }
}

/// A byte string; spaces have no meaning.
fn bytes(value: &Value) -> Vec<u8> {
    let digits: Vec<u8> = text(value).bytes().filter(|byte| *byte != b' ').collect();
    assert_eq!(digits.len() % 2, 0, "whole bytes");
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(pair).collect()
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().expect("as many bytes as the field has")
}

/// A u64, as 16 digits.
fn u64_of(value: &Value) -> u64 {
    u64::from_be_bytes(array(value))
}

fn u32_of(value: &Value) -> u32 {
    value.as_u64().and_then(|number| number.try_into().ok()).expect("a u32")
}

fn u16_of(value: &Value) -> u16 {
    u32_of(value).try_into().expect("a u16")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// The limit that holds for a case: its own, else that of the file.
fn frame_bytes_max(case: &Value, file: &Value) -> u32 {
    u32_of(case.get("frame_bytes_max").unwrap_or(&file["frame_bytes_max"]))
}
