//! The layers: defaults, file, environment, flags. Every value remembers where it came from, so
//! that an error names the place to correct.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt, fs,
    path::PathBuf,
};

use serde::Deserialize;
use toml::{Table, Value, de::DeTable};

use super::{
    check,
    cli::Options,
    keys::{self, Config, KEYS},
    refuse,
};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said otherwise.
    Default,
    /// The file, at this line, counted from 1.
    File(PathBuf, usize),
    /// This variable.
    Variable(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// What is wrong, a line each, with place and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// The variables of the environment that concern roost.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Those of any list.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        let mut own: Vec<_> =
            variables.into_iter().filter_map(text).filter(|(name, _)| name.starts_with("ROOST_")).collect();
        own.sort();
        Self(own)
    }
}

/// A configuration and where its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// What is odd but does not stop the gateway; for the log.
    pub warnings: Vec<String>,
    sources: BTreeMap<&'static str, Source>,
    bad: BTreeSet<&'static str>,
}

impl Loaded {
    /// Whether the value of `key` is as the operator wrote it, or the default that he left. False
    /// only after [`load_all`] had to refuse it.
    pub fn is_sound(&self, key: &str) -> bool {
        !self.bad.contains(key)
    }

    /// Where the value of `key` came from.
    pub fn source(&self, key: &str) -> &Source {
        self.sources.get(key).unwrap_or(&Source::Default)
    }

    /// The effective configuration as a TOML file, each line with where it came from.
    pub fn to_toml(&self) -> String {
        let table = Table::try_from(&self.config).expect("a configuration is a table");
        let lines = KEYS.iter().map(|key| {
            let line = format!("{} = {}", key.name, table[key.name]);
            format!("{line:<48} # {}\n", self.source(key.name))
        });
        lines.collect()
    }
}

/// Reads all layers and checks the result.
///
/// # Errors
/// Every problem found, a line each: an unreadable file, broken TOML, an unknown key, a value of
/// the wrong type or out of range, values that contradict each other.
pub fn load(options: &Options, environment: &Environment) -> Result<Loaded, ConfigError> {
    let (loaded, problems) = load_all(options, environment);
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError(problems)) }
}

/// As [`load`], for whoever has more to say than what is wrong here: what was refused has its
/// default.
pub fn load_all(options: &Options, environment: &Environment) -> (Loaded, Vec<String>) {
    let mut layers = Layers::default();
    if let Some(path) = &options.config {
        layers.file(path.clone());
    }
    layers.environment(environment);
    layers.flags(options);
    layers.finish()
}

#[derive(Default)]
struct Layers {
    values: Table,
    sources: BTreeMap<&'static str, Source>,
    problems: Vec<String>,
    warnings: Vec<String>,
    bad: BTreeSet<&'static str>,
}

impl Layers {
    fn file(&mut self, path: PathBuf) {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                self.bad.extend(KEYS.iter().map(|key| key.name));
                return self.problems.push(format!("{}: cannot be read: {error}", path.display()));
            }
        };
        let line = |offset: usize| 1 + text[..offset].matches('\n').count();
        let parsed = DeTable::parse(&text).and_then(|spans| Ok((spans, text.parse::<Table>()?)));
        let (spans, values) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                let line = line(error.span().map_or(0, |span| span.start));
                let written = text.lines().nth(line - 1).unwrap_or("").trim();
                self.bad.extend(KEYS.iter().map(|key| key.name));
                return self.problems.push(format!(
                    "{}:{line}: `{written}`: {}; numbers are digits only, texts stand in quotes",
                    path.display(),
                    error.message().replace('\n', ", ")
                ));
            }
        };
        let mut entries: Vec<_> = spans.get_ref().keys().map(|key| (line(key.span().start), key)).collect();
        entries.sort_by_key(|&(line, _)| line);
        for (line, name) in entries {
            let name: &str = name.get_ref();
            self.set(name, values[name].clone(), Source::File(path.clone(), line));
        }
    }

    fn environment(&mut self, environment: &Environment) {
        for (variable, text) in &environment.0 {
            let name = variable["ROOST_".len()..].to_ascii_lowercase();
            match keys::key(&name) {
                Some(key) => self.set_text(key.name, text, Source::Variable(variable.clone())),
                None if name == "config" => {}
                // Not an error: container platforms make up variables after service names.
                None => self.warnings.push(format!(
                    "environment {variable} is no key of the configuration and has no effect{}",
                    did_you_mean(&name)
                )),
            }
        }
    }

    fn flags(&mut self, options: &Options) {
        for (name, value) in options.given() {
            let flag = if name == "workers" { "--worker".to_owned() } else { dashed(name) };
            self.set(name, value, Source::Flag(flag));
        }
        for (name, text) in &options.set {
            self.set_text(name, text, Source::Flag(format!("--set {name}")));
        }
    }

    /// Sets a key from text that need not be TOML: words without quotes, lists with commas.
    ///
    /// Text that is empty is refused, whatever the key: it is rather a template that found nothing
    /// than a wish to undo what a file says.
    fn set_text(&mut self, name: &str, text: &str, source: Source) {
        if let Some(key) = keys::key(name).filter(|_| refuse::is_empty(text)) {
            self.bad.insert(key.name);
            return self.problems.push(format!("{}: {}", place(&source, key.name), refuse::empty(key)));
        }
        let default = Table::try_from(Config::default()).expect("a configuration is a table");
        let quoted = Value::String(text.to_owned());
        let literal =
            format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let value = match default.get(name) {
            Some(Value::Array(_)) => literal.filter(Value::is_array).unwrap_or_else(|| {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
            }),
            _ => {
                literal.filter(|literal| refuse::check_type(name, literal.clone()).is_ok()).unwrap_or(quoted)
            }
        };
        self.set(name, value, source);
    }

    fn set(&mut self, name: &str, value: Value, source: Source) {
        let Some(key) = keys::key(name) else {
            return self.problems.push(format!("{source}: unknown key `{name}`{}", did_you_mean(name)));
        };
        if let Err(message) = refuse::check(key, &value) {
            self.bad.insert(key.name);
            return self.problems.push(format!("{}: {message}", place(&source, key.name)));
        }
        self.values.insert(name.to_owned(), value);
        self.sources.insert(key.name, source);
    }

    fn finish(self) -> (Loaded, Vec<String>) {
        let Self { values, sources, mut problems, warnings, bad } = self;
        let config = Config::deserialize(values).expect("each key was checked when it was set");
        let loaded = Loaded { config, warnings, sources, bad };
        for (keys, message) in check::contradictions(&loaded.config) {
            // Values contradict each other only when each makes sense alone.
            if keys.iter().all(|key| loaded.is_sound(key)) {
                problems.push(format!("{}: {message}", place(loaded.source(keys[0]), keys[0])));
            }
        }
        (loaded, problems)
    }
}

/// Where to correct the value of `key`. Variables and flags name it already.
fn place(source: &Source, key: &str) -> String {
    match source {
        Source::Default | Source::File(..) => format!("{source}: {key}"),
        Source::Variable(_) | Source::Flag(_) => source.to_string(),
    }
}

fn dashed(name: &str) -> String {
    format!("--{}", name.replace('_', "-"))
}

fn did_you_mean(name: &str) -> String {
    let near = KEYS.iter().map(|key| (strsim::jaro_winkler(name, key.name), key.name));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, key)) if likeness > 0.8 => format!("; did you mean `{key}`?"),
        _ => "; roost.example.toml lists them all".to_owned(),
    }
}

#[cfg(test)]
mod tests;
