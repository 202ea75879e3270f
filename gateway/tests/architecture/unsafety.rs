//! Where `unsafe` may stand, and that it argues.

use crate::{
    Finding,
    policy::UNSAFE_PLACES,
    source::{SourceFile, Token},
};

/// How far above an `unsafe` its SAFETY comment may begin, in lines.
const ARGUMENT_LINES_MAX: usize = 24;

/// Checks that `unsafe` stands only where it may, with an argument.
pub(crate) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let allowed = UNSAFE_PLACES.iter().any(|place| file.path.starts_with(place)) || file.is_test();
    for (index, (token, line)) in file.tokens.iter().enumerate() {
        if !token.is("unsafe") {
            continue;
        }
        if !allowed {
            findings.push(Finding::new(file, *line, "unsafe outside a ring driver"));
        }
        let next = file.tokens.get(index + 1).map(|(token, _)| token);
        let (marker, what) = match next {
            Some(Token::Mark('{')) => ("SAFETY:", "block"),
            Some(word) if word.is("impl") => ("SAFETY:", "impl"),
            Some(word) if word.is("fn") || word.is("trait") => ("# Safety", "declaration"),
            // `unsafe extern`, and function pointer types.
            _ => continue,
        };
        if !argued(file, *line, marker) {
            findings.push(Finding::new(file, *line, format!("unsafe {what} without a {marker} comment")));
        }
    }
    for (index, (token, line)) in file.tokens.iter().enumerate() {
        if token.is("allow")
            && names_unsafe_code(file, index)
            && !allowed
            && !allows_an_unsafe_place(file, index)
        {
            findings.push(Finding::new(file, *line, "allow(unsafe_code) outside a ring driver"));
        }
    }
    findings
}

/// Checks that a crate's root confines `unsafe`: with `forbid`, or, where a ring driver belongs to
/// the crate, with `deny`.
pub(crate) fn check_root(file: &SourceFile) -> Vec<Finding> {
    let Some((member, inside)) = file.path.split_once("/src/") else { return Vec::new() };
    let is_root = inside == "lib.rs" || inside == "main.rs" || inside.starts_with("bin/");
    if !is_root {
        return Vec::new();
    }
    let own_driver =
        inside == "lib.rs" && UNSAFE_PLACES.iter().any(|place| place.starts_with(&format!("{member}/")));
    let level = |level: &str| {
        file.tokens.windows(2).enumerate().any(|(index, pair)| {
            index > 1
                && pair[0].0.is(level)
                && names_unsafe_code(file, index)
                && file.tokens[index - 2].0 == Token::Mark('!')
        })
    };
    if level("forbid") || (own_driver && level("deny")) {
        return Vec::new();
    }
    let wanted = if own_driver { "deny" } else { "forbid" };
    vec![Finding::new(file, 1, format!("no #![{wanted}(unsafe_code)] in a crate root"))]
}

/// Whether the tokens after `index` are `(unsafe_code`.
fn names_unsafe_code(file: &SourceFile, index: usize) -> bool {
    file.tokens.get(index + 1).is_some_and(|(token, _)| *token == Token::Mark('('))
        && file.tokens.get(index + 2).is_some_and(|(token, _)| token.is("unsafe_code"))
}

/// Whether an outer `#[allow(unsafe_code)]` stands before `mod NAME;` of a permitted module.
fn allows_an_unsafe_place(file: &SourceFile, index: usize) -> bool {
    let Some(at) = (index..file.tokens.len().min(index + 9)).find(|&at| file.tokens[at].0.is("mod")) else {
        return false;
    };
    let Some(name) = file.tokens.get(at + 1).and_then(|(token, _)| token.word()) else { return false };
    let member = file.path.split_once("/src/").map_or("", |(member, _)| member);
    let mut module = vec![format!("{member}/src")];
    module.extend(file.module());
    module.push(name.to_owned());
    let module = module.join("/");
    UNSAFE_PLACES.iter().any(|place| place.trim_end_matches(".rs").trim_end_matches('/') == module)
}

/// Whether the statement with an `unsafe` on `line` is preceded by a comment with `marker`: on the
/// line itself, or in the comments right above it; the lines of the statement that come before the
/// `unsafe`, and attributes, may stand between.
fn argued(file: &SourceFile, line: usize, marker: &str) -> bool {
    if file.comments[line - 1].text.contains(marker) {
        return true;
    }
    let statement = statement_line(file, line);
    let mut above = statement;
    for _ in 0..ARGUMENT_LINES_MAX {
        if above == 0 {
            return false;
        }
        let entry = &file.comments[above - 1];
        if above < statement && !entry.comment && !entry.attribute {
            return false;
        }
        if entry.text.contains(marker) {
            return true;
        }
        above -= 1;
    }
    false
}

/// The line on which the statement begins to which the first `unsafe` of `line` belongs.
fn statement_line(file: &SourceFile, line: usize) -> usize {
    let Some(mut at) = file.tokens.iter().position(|(token, own)| *own == line && token.is("unsafe")) else {
        return line;
    };
    while at > 0 && !matches!(file.tokens[at - 1].0, Token::Mark(';' | '{' | '}' | ',' | ']')) {
        at -= 1;
    }
    file.tokens[at].1
}
