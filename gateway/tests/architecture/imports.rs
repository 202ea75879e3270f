//! Who may name whom.

use crate::{
    Finding,
    policy::{IMPURE_NAMES, IMPURE_STD, LAYERS, Layer, STRANGERS},
    source::{Placed, SourceFile, Token},
};

/// A path as written, resolved as far as the file alone tells: `crate::...` or `<name>::...`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its segments; the first is `crate` where it leads into the own crate.
    pub(crate) segments: Vec<String>,
    /// Line of its first segment.
    pub(crate) line: usize,
    /// Whether it stands in a `use` declaration.
    pub(crate) used: bool,
    /// Whether it stands in test code.
    pub(crate) test: bool,
}

/// Checks the layer rules, the rules between crates, and purity.
pub(crate) fn check(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let paths = paths(file);
    for (prefix, strangers) in STRANGERS {
        if file.path.starts_with(prefix) {
            for named in paths.iter().filter(|named| strangers.contains(&named.segments[0].as_str())) {
                findings.push(Finding::new(
                    file,
                    named.line,
                    format!("{prefix} must not know {}", named.segments[0]),
                ));
            }
        }
    }
    if let Some(layer) = LAYERS.iter().find(|layer| file.path.starts_with(layer.at)) {
        check_layer(file, layer, &paths, &mut findings);
    }
    findings
}

fn check_layer(file: &SourceFile, layer: &Layer, paths: &[Named], findings: &mut Vec<Finding>) {
    let local = local_names(file, paths);
    for named in paths {
        let first = named.segments[0].as_str();
        let second = named.segments.get(1).map_or("", String::as_str);
        if first == "crate" {
            // Test code may reach for the other side of a seam, such as a fake driver.
            if !named.test && is_module(second) && !layer.modules.contains(&second) {
                findings.push(Finding::new(
                    file,
                    named.line,
                    format!("{} must not import crate::{second}", layer.at),
                ));
            }
            continue;
        }
        let known = ["core", "alloc", "clippy"].contains(&first)
            || layer.crates.contains(&first)
            || local.contains(&first);
        if !named.test && !known && is_module(first) && !is_primitive(first) {
            findings.push(Finding::new(file, named.line, format!("{} must not import {first}", layer.at)));
        }
        if layer.pure && !named.test && first == "std" && IMPURE_STD.contains(&second) {
            findings.push(Finding::new(file, named.line, format!("{} is pure: no std::{second}", layer.at)));
        }
    }
    if layer.pure {
        let tests = test_regions(file);
        for (index, (token, line)) in file.tokens.iter().enumerate() {
            let Some(word) = token.word().filter(|word| IMPURE_NAMES.contains(word)) else { continue };
            if !tests[index] && !is_field_or_binding(&file.tokens, index) {
                findings.push(Finding::new(file, *line, format!("{} is pure: no {word}", layer.at)));
            }
        }
    }
}

/// Every path in the file: the leaves of `use` trees, and `a::b` anywhere in code.
pub(crate) fn paths(file: &SourceFile) -> Vec<Named> {
    let tests = test_regions(file);
    let mut walker = Walker { file, module: file.module(), inline: Vec::new(), depth: 0, found: Vec::new() };
    let mut at = 0;
    while at < file.tokens.len() {
        at = walker.step(at, tests[at]);
    }
    walker.found
}

struct Walker<'a> {
    file: &'a SourceFile,
    module: Vec<String>,
    /// Inline modules that are open: name and the brace depth outside.
    inline: Vec<(String, usize)>,
    depth: usize,
    found: Vec<Named>,
}

impl Walker<'_> {
    fn step(&mut self, at: usize, test: bool) -> usize {
        let tokens = &self.file.tokens;
        let next = |ahead: usize| tokens.get(at + ahead).map(|(token, _)| token);
        match &tokens[at].0 {
            Token::Mark('{') => self.depth += 1,
            Token::Mark('}') => {
                self.depth = self.depth.saturating_sub(1);
                if self.inline.last().is_some_and(|(_, outside)| *outside == self.depth) {
                    self.inline.pop();
                }
            }
            Token::Word(word) if word == "mod" && next(2) == Some(&Token::Mark('{')) => {
                if let Some(name) = next(1).and_then(Token::word) {
                    self.inline.push((name.to_owned(), self.depth));
                }
            }
            Token::Word(word) if word == "use" && next(1) != Some(&Token::Mark('<')) => {
                let (end, leaves) = use_tree(tokens, at + 1, &[]);
                for (segments, line) in leaves {
                    self.add(&segments, line, true, test);
                }
                return end.max(at + 1);
            }
            Token::Word(_) if next(1) == Some(&Token::Path) => {
                let mut segments = vec![tokens[at].0.word().unwrap_or_default().to_owned()];
                let mut end = at + 1;
                while tokens.get(end).is_some_and(|(token, _)| *token == Token::Path) {
                    let Some(word) = tokens.get(end + 1).and_then(|(token, _)| token.word()) else { break };
                    segments.push(word.to_owned());
                    end += 2;
                }
                // One segment alone is a turbofish, as in `size_of::<T>()`.
                if segments.len() > 1 {
                    self.add(&segments, tokens[at].1, false, test);
                }
                return end.max(at + 1);
            }
            _ => {}
        }
        at + 1
    }

    /// Resolves `self`, `super` and `crate` and notes the path.
    fn add(&mut self, segments: &[String], line: usize, used: bool, test: bool) {
        let mut base: Vec<String> = self.module.clone();
        base.extend(self.inline.iter().map(|(name, _)| name.clone()));
        let mut rest = segments;
        let mut relative = false;
        while let Some(first) = rest.first() {
            match first.as_str() {
                "self" => relative = true,
                "super" => {
                    relative = true;
                    base.pop();
                }
                _ => break,
            }
            rest = &rest[1..];
        }
        let mut resolved = if relative { vec!["crate".to_owned()] } else { Vec::new() };
        if relative {
            resolved.extend(base);
        }
        resolved.extend(rest.iter().cloned());
        if !resolved.is_empty() {
            self.found.push(Named { segments: resolved, line, used, test });
        }
    }
}

/// Reads one use tree from `at`; returns where it ends and its leaves.
fn use_tree(tokens: &[Placed], mut at: usize, prefix: &[String]) -> (usize, Vec<(Vec<String>, usize)>) {
    let mut path = prefix.to_vec();
    let mut leaves = Vec::new();
    let mut line = tokens.get(at).map_or(0, |(_, line)| *line);
    let mut open = false;
    while let Some((token, own)) = tokens.get(at) {
        match token {
            Token::Word(word) if word == "as" => at += 1,
            Token::Word(word) => {
                line = *own;
                path.push(word.clone());
                open = true;
            }
            Token::Path => {}
            Token::Mark('*') => open = true,
            Token::Mark('{') => {
                at += 1;
                while tokens.get(at).is_some_and(|(token, _)| *token != Token::Mark('}')) {
                    let (end, inner) = use_tree(tokens, at, &path);
                    leaves.extend(inner);
                    at = end.max(at + 1);
                    if tokens.get(at).is_some_and(|(token, _)| *token == Token::Mark(',')) {
                        at += 1;
                    }
                }
                return (at + 1, leaves);
            }
            _ => break,
        }
        at += 1;
    }
    if open {
        leaves.push((path, line));
    }
    (at, leaves)
}

/// For each token: whether it belongs to test code (`#[cfg(test)]`, `#[test]`, or a test file).
pub(crate) fn test_regions(file: &SourceFile) -> Vec<bool> {
    let tokens = &file.tokens;
    let mut marks = vec![file.is_test(); tokens.len()];
    let mut at = 0;
    while at < tokens.len() {
        if let Some(end) = test_attribute(tokens, at) {
            let item_end = item_end(tokens, end);
            marks[at..item_end].fill(true);
            at = item_end;
        } else {
            at += 1;
        }
    }
    marks
}

/// If a `#[test]` or `#[cfg(...test...)]` starts at `at`: the index after it.
fn test_attribute(tokens: &[Placed], at: usize) -> Option<usize> {
    let is =
        |index: usize, mark: char| tokens.get(index).is_some_and(|(token, _)| *token == Token::Mark(mark));
    if !is(at, '#') || !is(at + 1, '[') {
        return None;
    }
    let end = (at..tokens.len()).find(|&index| is(index, ']'))? + 1;
    let inside = &tokens[at + 2..end - 1];
    let first = inside.first().and_then(|(token, _)| token.word())?;
    let names_test = inside.iter().any(|(token, _)| token.is("test"));
    let negated = inside.iter().any(|(token, _)| token.is("not"));
    ((first == "test" && inside.len() == 1) || (first == "cfg" && names_test && !negated)).then_some(end)
}

/// The index after the item that starts at `at`: after its block, or its semicolon.
fn item_end(tokens: &[Placed], at: usize) -> usize {
    let mut depth = 0usize;
    for (index, (token, _)) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark('}' | ')' | ']') => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *token == Token::Mark('}') {
                    return index + 1;
                }
            }
            Token::Mark(';' | ',') if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Names that paths may begin with because the file itself brings them in.
fn local_names<'a>(file: &'a SourceFile, paths: &'a [Named]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for named in paths.iter().filter(|named| named.used && named.segments.len() > 1) {
        // `use a::b::{self}` brings in `b`.
        names.extend(named.segments.iter().rev().map(String::as_str).find(|name| *name != "self"));
    }
    for pair in file.tokens.windows(2) {
        // Own modules, and names given by `use ... as name`.
        if pair[0].0.is("mod") || pair[0].0.is("as") {
            names.extend(pair[1].0.word());
        }
    }
    names
}

/// Lower-case names are modules and crates; types and variants begin with a capital.
pub(crate) fn is_module(name: &str) -> bool {
    name.chars().next().is_some_and(|c| c.is_lowercase() || c == '_')
}

fn is_primitive(name: &str) -> bool {
    const PRIMITIVES: &[&str] = &[
        "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize", "f32", "f64",
        "bool", "char", "str", "slice",
    ];
    PRIMITIVES.contains(&name)
}

/// `x.stdout` and `stdout: 3` are fields, not the standard streams.
fn is_field_or_binding(tokens: &[Placed], index: usize) -> bool {
    let before = index.checked_sub(1).map(|before| &tokens[before].0);
    let after = tokens.get(index + 1).map(|(token, _)| token);
    before == Some(&Token::Mark('.')) || after == Some(&Token::Mark(':'))
}
