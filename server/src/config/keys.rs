//! The table of keys: every name an operator can set, its field and what it accepts.

use std::time::Duration;

use lease::ValkeyUrl;
use toml::Value;

use super::Config;
use super::text;
use super::value::{self, Field, Rule, Shape};

/// One key of the configuration.
pub(super) struct Key {
    /// Dotted name, as in the file.
    pub(super) name: &'static str,
    shape: fn(&Config) -> Shape,
    assign: fn(&mut Config, &Value) -> Result<(), String>,
    show: fn(&Config) -> Option<Value>,
}

impl Key {
    /// How its value is written in a variable, a flag or `--set`.
    pub(super) fn shape(&self, config: &Config) -> Shape {
        (self.shape)(config)
    }

    /// Whether its value is shown to nobody, not even in a mistake.
    pub(super) fn is_secret(&self) -> bool {
        self.shape(&Config::default()) == Shape::Secret
    }

    /// Sets its field, or says what the value must be.
    pub(super) fn assign(&self, config: &mut Config, value: &Value) -> Result<(), String> {
        (self.assign)(config, value)
    }

    /// The field's value, credentials hidden; `None` if it has none.
    pub(super) fn show(&self, config: &Config) -> Option<Value> {
        (self.show)(config)
    }

    /// The environment variable that sets it: `CORRAL_` and, for every dot, two underscores.
    pub(super) fn variable(&self) -> String {
        format!(
            "CORRAL_{}",
            self.name.to_ascii_uppercase().replace('.', "__")
        )
    }
}

/// Finds a key by its dotted name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const MILLI: Duration = Duration::from_millis(1);
const KIB: u64 = 1 << 10;
const TIB: u64 = 1 << 40;

const POOL_MAX: u64 = lease::ValkeyConfig::POOL_MAX_MAX as u64;
const VALKEY_TIMEOUT: Rule =
    Rule::Span(lease::ValkeyConfig::TIMEOUT_MIN..=lease::ValkeyConfig::TIMEOUT_MAX);
const VALKEY_HEALTH_CHECK: Rule = Rule::Span(
    lease::ValkeyConfig::HEALTH_CHECK_INTERVAL_MIN..=lease::ValkeyConfig::HEALTH_CHECK_INTERVAL_MAX,
);

const fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

macro_rules! keys {
    ($($name:literal => $($field:ident).+, $rule:expr;)+) => {
        /// Every key, in the order in which they are shown.
        pub(super) static KEYS: &[Key] = &[$(Key {
            name: $name,
            shape: |config| value::shape_of(&config.$($field).+),
            assign: |config, value| value::assign(&mut config.$($field).+, value, &$rule),
            show: |config| config.$($field).+.show(),
        },)+];
    };
}

keys! {
    "listen" => listen, Rule::Free;
    "admin_listen" => admin_listen, Rule::Free;
    "upstream" => upstream, Rule::Text(text::check_list);
    "storage" => storage, Rule::Text(text::check_storage);
    "offline" => offline, Rule::Free;
    "drain_timeout" => drain_timeout, Rule::Span(Duration::ZERO..=HOUR);
    "workers" => workers, Rule::Count(1..=1024);
    "connections_max" => connections_max, Rule::Count(1..=1_000_000);
    "zip_bytes_max" => zip_bytes_max, Rule::Size(KIB..=TIB);
    "upstreams.connect_timeout" => upstreams.connect_timeout, Rule::Span(10 * MILLI..=10 * MINUTE);
    "upstreams.first_byte_timeout" => upstreams.first_byte_timeout, Rule::Span(10 * MILLI..=HOUR);
    "upstreams.stall_timeout" => upstreams.stall_timeout, Rule::Span(10 * MILLI..=HOUR);
    "spool.dir" => spool.dir, Rule::Free;
    "spool.bytes_max" => spool.bytes_max, Rule::Size(KIB..=1024 * TIB);
    "spool.free_bytes_min" => spool.free_bytes_min, Rule::Size(0..=1024 * TIB);
    "spool.kept_percent_max" => spool.kept_percent_max, Rule::Count(0..=90);
    "valkey.url" => valkey.url, Rule::Urls(text::check_valkey);
    "valkey.topology" => valkey.topology, Rule::Free;
    "valkey.sentinel_master" => valkey.sentinel_master, Rule::Free;
    "valkey.username" => valkey.username, Rule::Free;
    "valkey.password" => valkey.password, Rule::Free;
    "valkey.password_file" => valkey.password_file, Rule::Free;
    "valkey.sentinel_username" => valkey.sentinel_username, Rule::Free;
    "valkey.sentinel_password" => valkey.sentinel_password, Rule::Free;
    "valkey.sentinel_password_file" => valkey.sentinel_password_file, Rule::Free;
    "valkey.database" => valkey.database, Rule::Count(0..=ValkeyUrl::DATABASE_MAX as u64);
    "valkey.tls.ca_file" => valkey.tls.ca_file, Rule::Free;
    "valkey.tls.cert_file" => valkey.tls.cert_file, Rule::Free;
    "valkey.tls.key_file" => valkey.tls.key_file, Rule::Free;
    "valkey.key_prefix" => valkey.key_prefix, Rule::Free;
    "valkey.pool_max" => valkey.pool_max, Rule::Count(1..=POOL_MAX);
    "valkey.pool_idle_max" => valkey.pool_idle_max, Rule::Count(0..=POOL_MAX);
    "valkey.pool_idle_min" => valkey.pool_idle_min, Rule::Count(0..=POOL_MAX);
    "valkey.connect_timeout" => valkey.connect_timeout, VALKEY_TIMEOUT;
    "valkey.command_timeout" => valkey.command_timeout, VALKEY_TIMEOUT;
    "valkey.health_check_interval" => valkey.health_check_interval, VALKEY_HEALTH_CHECK;
    "valkey.on_get_error" => valkey.on_get_error, Rule::Free;
    "internal.listen" => internal.listen, Rule::Free;
    "internal.advertise" => internal.advertise, Rule::Text(text::check_advertise);
    "internal.peers" => internal.peers, Rule::Free;
    "internal.relay" => internal.relay, Rule::Free;
    "fleet.id" => fleet.id, Rule::Text(text::check_fleet_id);
    "fleet.secret_file" => fleet.secret_file, Rule::Free;
    "verify.mode" => verify.mode, Rule::Free;
    "verify.on_unavailable" => verify.on_unavailable, Rule::Free;
    "verify.sumdb" => verify.sumdb, Rule::Text(text::check_sumdb);
    "verify.timeout" => verify.timeout, Rule::Span(10 * MILLI..=10 * MINUTE);
    "documents.ttl" => documents.ttl, Rule::Span(Duration::ZERO..=days(365));
    "documents.swr" => documents.swr, Rule::Span(Duration::ZERO..=days(365));
    "documents.sie" => documents.sie, Rule::Span(Duration::ZERO..=days(3650));
    "negative.ttl" => negative.ttl, Rule::Span(Duration::ZERO..=DAY);
    "negative.gone_ttl" => negative.gone_ttl, Rule::Span(Duration::ZERO..=days(30));
    "failure.ttl" => failure.ttl, Rule::Span(Duration::ZERO..=10 * MINUTE);
    "lease.ttl" => lease.ttl, Rule::Span(SECOND..=5 * MINUTE);
    "l1.bytes_max" => l1.bytes_max, Rule::Size(0..=16 * TIB);
    "l1.entry_bytes_max" => l1.entry_bytes_max, Rule::Size(0..=TIB);
    "l1.ttl" => l1.ttl, Rule::Span(Duration::ZERO..=DAY);
    "fill.retries" => fill.retries, Rule::Count(0..=20);
    "fill.wait_max" => fill.wait_max, Rule::Span(10 * MILLI..=DAY);
    "fill.max_duration" => fill.max_duration, Rule::Span(100 * MILLI..=DAY);
    "fill.first_byte_max" => fill.first_byte_max, Rule::Span(10 * MILLI..=HOUR);
    "fill.on_failure" => fill.on_failure, Rule::Free;
    "fill.stream" => fill.stream, Rule::Free;
    "fill.on_wait_timeout" => fill.on_wait_timeout, Rule::Free;
    "fill.concurrency_max" => fill.concurrency_max, Rule::Count(1..=100_000);
    "fill.waiters_max" => fill.waiters_max, Rule::Count(1..=10_000_000);
    "retry.attempts_max" => retry.attempts_max, Rule::Count(1..=1_000);
    "retry.deadline" => retry.deadline, Rule::Span(SECOND..=lease::LIFE_MAX);
    "retry.concurrency_max" => retry.concurrency_max, Rule::Count(1..=10_000);
    "retry.other_upstreams" => retry.other_upstreams, Rule::Free;
    "sumdb.proxied" => sumdb.proxied, Rule::Text(text::check_database);
    "admin.token_file" => admin.token_file, Rule::Free;
    "admin.hosts" => admin.hosts, Rule::Text(text::check_host);
    "log.format" => log.format, Rule::Free;
    "log.level" => log.level, Rule::Text(text::check_log_level);
    "otlp.endpoint" => otlp.endpoint, Rule::Text(text::check_http);
    "metrics.lru_sample_interval" => metrics.lru_sample_interval, Rule::Span(100 * MILLI..=HOUR);
}
