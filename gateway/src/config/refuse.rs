//! What is wrong with a single value: each refusal shows the value and the form that it should have.

use serde::Deserialize;
use toml::{Table, Value};

use super::keys::{Config, Key};

/// Whether text from the environment or a flag holds nothing: it is blank, or a list of nothing.
pub(super) fn is_empty(text: &str) -> bool {
    text.split(',').all(|item| item.trim().is_empty())
}

/// What to do about a value that is empty.
pub(super) fn empty(key: &Key) -> String {
    let what = match default_of(key.name) {
        Value::Array(_) => "unset it, or write [] for an empty list",
        Value::String(text) if text.is_empty() => "unset it, or write \"\" for none",
        _ => "unset it, or write a value",
    };
    format!("empty: {what}")
}

/// Whether `value` can be the value of `key`.
pub(super) fn check(key: &Key, value: &Value) -> Result<(), String> {
    if let Some(range) = key.range {
        return number(key, value, range);
    }
    let Err(message) = check_type(key.name, value.clone()) else { return Ok(()) };
    let culprit = culprit(key.name, value);
    let shown = shown(&culprit);
    Err(match (key.name, default_of(key.name)) {
        ("proxy_trusted", _) => {
            format!("{shown} is no network: write ADDRESS/BITS, as in 10.0.0.0/8 or fd00::/8")
        }
        ("admin_listen", _) => {
            format!("{shown} is no address: write ADDR:PORT, as in 127.0.0.1:7401 or [::1]:7401")
        }
        (_, Value::Boolean(_)) => format!("{shown} is neither true nor false"),
        _ if message.contains(culprit.as_str().unwrap_or(&shown)) => message,
        _ => format!("{shown}: {message}"),
    })
}

/// Whether `value` has the type of the key `name`.
pub(super) fn check_type(name: &str, value: Value) -> Result<(), String> {
    let table = Table::from_iter([(name.to_owned(), value)]);
    Config::deserialize(table).map(drop).map_err(|error| error.message().to_owned())
}

fn number(key: &Key, value: &Value, (least, most): (u64, u64)) -> Result<(), String> {
    let in_range = |number: i64| u64::try_from(number).is_ok_and(|number| (least..=most).contains(&number));
    match value {
        Value::Integer(number) if in_range(*number) => return Ok(()),
        Value::Integer(number) => return Err(format!("{number} is out of range, write {least} to {most}")),
        Value::String(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            // Too large for TOML, or quoted in the file.
            return Err(match text.parse().is_ok_and(in_range) {
                true => format!("\"{text}\" is a text: write it without quotes"),
                false => format!("{text} is out of range, write {least} to {most}"),
            });
        }
        _ if check_type(key.name, value.clone()).is_ok() => return Ok(()),
        _ => {}
    }
    let auto = if default_of(key.name).as_str() == Some("auto") { " and not `auto`" } else { "" };
    let form = form(key.name);
    Err(format!("{} is no whole number{auto}: write digits only, {form}", shown(value)))
}

/// The unit of a number and an example, by the key's last words.
fn form(name: &str) -> &'static str {
    let has = |unit: &str| name.split('_').any(|word| word == unit);
    match () {
        () if has("ms") => "in milliseconds, as in 30000 for 30 s",
        () if has("us") => "in microseconds, as in 1000 for 1 ms",
        () if has("bytes") => "in bytes, as in 1048576 for 1 MiB",
        () => "as in 1000000 or 1_000_000",
    }
}

/// The value, or the first item of a list that is to blame.
fn culprit(name: &str, value: &Value) -> Value {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    let bad = |item: &&Value| check_type(name, Value::Array(vec![(*item).clone()])).is_err();
    items.iter().find(bad).unwrap_or(value).clone()
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn default_of(name: &str) -> Value {
    let mut table = Table::try_from(Config::default()).expect("a configuration is a table");
    table.remove(name).expect("every key has a default")
}
