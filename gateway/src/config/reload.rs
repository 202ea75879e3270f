//! What SIGHUP changes: live keys take effect, the others are named and wait for a restart.

use toml::{Table, Value};

use super::keys::{Config, KEYS, When};

/// The difference between the running configuration and the one just read.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes {
    /// What to run with from now on: the new values of live keys, the old ones of the others.
    pub config: Config,
    /// Live keys that changed.
    pub live: Vec<Change>,
    /// Changed keys that wait for a restart.
    pub at_start: Vec<Change>,
}

/// One key that changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// Its value in the running gateway.
    pub old: Value,
    /// Its value as just read.
    pub new: Value,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.key, self.old, self.new)
    }
}

impl Changes {
    /// Compares key by key.
    pub fn between(running: &Config, read: &Config) -> Self {
        let table = |config: &Config| Table::try_from(config).expect("a configuration is a table");
        let (old, new) = (table(running), table(read));
        let mut changes = Self { config: running.clone(), live: Vec::new(), at_start: Vec::new() };
        for key in KEYS.iter().filter(|key| old[key.name] != new[key.name]) {
            let change = Change { key: key.name, old: old[key.name].clone(), new: new[key.name].clone() };
            match key.when {
                When::Live => {
                    changes.config.take(key.name, read);
                    changes.live.push(change);
                }
                When::Start => changes.at_start.push(change),
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::Changes;
    use crate::config::{Auto, Config, LogLevel};

    #[test]
    fn live_keys_change_and_the_others_are_named() {
        let running = Config::default();
        let read = Config {
            idle_timeout_ms: 200_000,
            log_level: LogLevel::Debug,
            connections_max: Auto::Value(5),
            ..Config::default()
        };
        let changes = Changes::between(&running, &read);
        let names = |list: &[super::Change]| list.iter().map(|change| change.key).collect::<Vec<_>>();
        assert_eq!(names(&changes.live), ["idle_timeout_ms", "log_level"]);
        assert_eq!(names(&changes.at_start), ["connections_max"]);
        assert_eq!(changes.config, Config { connections_max: Auto::Auto, ..read });
        assert_eq!(changes.at_start[0].to_string(), r#"connections_max "auto" -> 5"#);
    }

    #[test]
    fn nothing_changes_between_equals() {
        let changes = Changes::between(&Config::default(), &Config::default());
        assert!(changes.live.is_empty() && changes.at_start.is_empty());
    }
}
