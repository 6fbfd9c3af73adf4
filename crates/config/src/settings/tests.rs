use super::*;

fn settings(yaml: &str) -> Result<Settings, ConfigError> {
    let config: Config = serde_saphyr::from_str(yaml).map_err(|error| ConfigError(error.to_string()))?;
    config.try_into()
}

fn refused(yaml: &str) -> String {
    settings(yaml).unwrap_err().0
}

#[test]
fn explicit_timings_override_the_preset() {
    let lan = settings("node: {name: a}").unwrap();
    assert_eq!([lan.heartbeat, lan.election_min, lan.election_max].map(|d| d.as_millis()), [100, 300, 600]);
    let fast = settings("{node: {name: a}, raft: {preset: fast, election_timeout: 200ms}}").unwrap();
    assert_eq!([fast.heartbeat, fast.election_min, fast.election_max].map(|d| d.as_millis()), [30, 200, 400]);
    assert_eq!(
        settings("{node: {name: a}, raft: {heartbeat_interval: 1s, election_timeout: 3s}}")
            .unwrap()
            .election_max,
        Duration::from_secs(6)
    );
}

#[test]
fn every_preset_is_valid_and_a_multiple_of_the_tick() {
    for (preset, times_ms) in PRESETS {
        let found = settings(&format!("{{node: {{name: a}}, raft: {{preset: {preset}}}}}")).unwrap();
        let found = [found.heartbeat, found.election_min, found.election_max];
        assert_eq!(found.map(|time| time.as_millis() as u64), times_ms, "{preset}");
        for time in found {
            assert!(time.as_nanos().is_multiple_of(crate::TICK.as_nanos()), "{preset}: {time:?}");
        }
        let [heartbeat, min, max] = found;
        assert!(3 * heartbeat <= min && 2 * min == max, "{preset}");
    }
}

#[test]
fn contradictory_timings_are_rejected_with_both_values() {
    let error = refused("{node: {name: a}, raft: {heartbeat_interval: 400ms}}");
    assert!(error.contains("400ms") && error.contains("300ms"), "{error}");
    let error = refused("{node: {name: a}, raft: {election_timeout_min: 700ms}}");
    assert!(error.contains("700ms") && error.contains("600ms"), "{error}");
    assert!(refused("{node: {name: a}, raft: {preset: lann}}").contains("fast, lan or wan"));
    assert!(refused("{node: {name: a}, raft: {heartbeat_interval: 100}}").contains("150ms"));
}

#[test]
fn a_static_member_list_includes_the_node_itself() {
    let with = |name: &str, peer: &str, others: &str| {
        settings(&format!(
            "{{node: {{name: {name}, initial_members: [{others}]}}, listen: {{peer: '{peer}'}}}}"
        ))
        .unwrap()
        .bootstrap
    };
    let a = with("a", "127.0.0.1:7000", "{name: b, address: '127.0.0.1:7001'}");
    let b = with("b", "127.0.0.1:7001", "{name: a, address: '127.0.0.1:7000'}");
    assert_eq!(a, b);
    assert!(matches!(a, Bootstrap::Static(members) if members.len() == 2));
}

#[test]
fn an_unknown_engine_is_rejected() {
    let engine = |yaml: &str| settings(yaml).unwrap().engine;
    assert_eq!(engine("{node: {name: a}}"), None);
    assert_eq!(engine("{node: {name: a}, state: {engine: redb}}"), Some(EngineKind::Redb));
    assert_eq!(engine("{node: {name: a}, state: {engine: runs}}"), Some(EngineKind::Runs));
    assert!(refused("{node: {name: a}, state: {engine: rocks}}").contains("write runs, sled or redb"));
}

#[test]
fn scrub_bandwidth_has_a_default_a_minimum_and_can_be_turned_off() {
    let rate = |state: &str| {
        settings(&format!("{{node: {{name: a}}, state: {{{state}}}}}")).unwrap().scrub_bytes_per_second
    };
    assert_eq!(rate(""), NonZeroU64::new(8 << 20));
    assert_eq!(rate("scrub_bytes_per_second: 0"), None);
    assert_eq!(rate("scrub_bytes_per_second: 65536"), NonZeroU64::new(65_536));
    let error = refused("{node: {name: a}, state: {scrub_bytes_per_second: 1000}}");
    assert!(error.contains("65536 or more, or 0 for no scrub"), "{error}");
}

#[test]
fn a_snapshot_bandwidth_is_none_or_at_least_the_minimum() {
    let limit = |raft: &str| {
        settings(&format!("{{node: {{name: a}}, raft: {{{raft}}}}}")).unwrap().snapshot_bytes_per_second
    };
    assert_eq!(limit("preset: lan"), None);
    assert_eq!(limit("snapshot_bytes_per_second: 0"), None);
    assert_eq!(limit("snapshot_bytes_per_second: 65536"), NonZeroU64::new(65_536));
    let error = refused("{node: {name: a}, raft: {snapshot_bytes_per_second: 65535}}");
    assert!(error.contains("65536 or more, or 0"), "{error}");
}

#[test]
fn client_memory_limits_below_the_minimum_are_rejected() {
    let limits = settings("{node: {name: a}, client: {output_buffer_limit: 2097152, write_timeout: 0ms}}");
    let limits = limits.unwrap().client_memory;
    assert_eq!((limits.output_bytes, limits.write_timeout), (2_097_152, None));
    let error = refused("{node: {name: a}, client: {output_buffer_limit: 1000}}");
    assert!(error.contains("client.output_buffer_limit 1000: write 1048576 or more"), "{error}");
    let error = refused("{node: {name: a}, client: {maxmemory_clients: 1000}}");
    assert!(error.contains("client.maxmemory_clients 1000: write 268435456 or more"), "{error}");
    assert!(refused("{node: {name: a}, client: {auth_timeout: 0s}}").contains("client.auth_timeout"));
}

#[test]
fn contradictory_settings_are_rejected() {
    assert!(refused("{node: {name: a, bootstrap: static}}").contains("initial_members"));
    let twice = "{node: {name: a, bootstrap: single, initial_members: [{name: b, address: 'b:1'}]}}";
    assert!(refused(twice).contains("exclude"));
    let same = "{node: {name: a, initial_members: [{name: b, address: '127.0.0.1:7000'}]}}";
    assert!(refused(same).contains("share the address"));
    assert!(refused("{}").contains("node.name"));
    assert!(refused("{node: {name: a}, listen: {client: nonsense}}").contains("host:port"));
}

#[test]
fn a_gateway_off_loopback_needs_a_token() {
    let open = "{node: {name: a}, listen: {gateway: '0.0.0.0:8443'}, gateway: {token: TOKEN}}";
    let error = refused(&open.replace("TOKEN", "''"));
    assert!(error.contains("loopback") && error.contains("gateway.token"), "{error}");
    let found = settings(&open.replace("TOKEN", "s3cret")).unwrap();
    assert!(found.gateway_token.is_some_and(|token| token.matches(b"s3cret")));
    let other = settings(&open.replace("TOKEN", "another")).unwrap();
    assert_eq!(found.config_hash, other.config_hash, "the hash depends on the token");
}

#[test]
fn a_gateway_prefix_that_is_not_a_plain_path_is_rejected() {
    let prefix = |text: &str| settings(&format!("{{node: {{name: a}}, gateway: {{prefix: '{text}'}}}}"));
    assert_eq!(prefix("/db/helios").unwrap().gateway_prefix, "/db/helios");
    for bad in ["helios", "/", "/helios/", "/a b", "/a?b"] {
        assert!(prefix(bad).unwrap_err().0.contains("such as /helios"), "{bad}");
    }
}

#[test]
fn an_ack_level_below_majority_is_rejected() {
    assert_eq!(settings("node: {name: a}").unwrap().ack, Ack::Majority);
    assert_eq!(settings("{node: {name: a}, writes: {ack: all}}").unwrap().ack, Ack::All);
    assert!(refused("{node: {name: a}, writes: {ack: one}}").contains("majority or all"));
}

#[test]
fn default_ports_move_with_the_client_port() {
    let third = settings("{node: {name: c}, listen: {client: ':6381', peer: '127.0.0.1:7002'}}").unwrap();
    assert_eq!(third.listen_gateway, "127.0.0.1:8445".parse().ok());
    assert_eq!(third.listen_metrics, "127.0.0.1:9092".parse().ok());
    let off = settings("{node: {name: c}, listen: {gateway: ''}}").unwrap();
    assert_eq!(off.listen_gateway, None);
}

#[test]
fn default_ports_of_any_client_port_are_distinct_and_unprivileged() {
    let ports = |client: &str| {
        let found =
            settings(&format!("{{node: {{name: a}}, listen: {{client: '127.0.0.1:{client}'}}}}")).unwrap();
        [found.listen_grpc, found.listen_metrics, found.listen_gateway].map(|address| address.unwrap().port())
    };
    assert_eq!(ports("6379"), [50_051, 9_090, 8_443]);
    assert_eq!(ports("6479"), [50_151, 9_190, 8_543]);
    assert_eq!(ports("7001"), [50_673, 9_712, 9_065]);
    assert_eq!(ports("6000"), [49_672, 8_711, 8_064]);
    assert_eq!(ports("26379"), [5_539, 29_090, 28_443], "70051 wraps around to 1024");
    assert_eq!(ports("0"), [50_051, 9_090, 8_443], "port 0 has no offset");
    for client in 1..=u16::MAX {
        let all = [50_051, 9_090, 8_443].map(|port| beside(Some(([127, 0, 0, 1], client).into()), port));
        assert!(all.iter().all(|port| *port >= 1_024) && all[0] != all[1] && all[1] != all[2], "{client}");
    }
}

#[test]
fn memory_limits_below_the_minimum_are_rejected() {
    let limits = |yaml: &str| settings(&format!("{{node: {{name: a}}, {yaml}}}"));
    let default = limits("log: {level: info}").unwrap();
    assert_eq!((default.max_log_bytes, default.max_overlay_bytes), (512 << 20, 256 << 20));
    assert_eq!(limits("raft: {max_log_bytes: 33554432}").unwrap().max_log_bytes, 32 << 20);
    let error = limits("raft: {max_log_bytes: 1000}").unwrap_err().0;
    assert!(error.contains("raft.max_log_bytes 1000: write 33554432 or more"), "{error}");
    let error = limits("state: {max_overlay_bytes: 1000}").unwrap_err().0;
    assert!(error.contains("state.max_overlay_bytes 1000: write 67108864 or more"), "{error}");
}

#[test]
fn unwritten_memory_limits_fit_the_container_and_written_ones_hold() {
    let fitted = |yaml: &str, limit_bytes: u64| {
        let mut config: Config = serde_saphyr::from_str(&format!("{{node: {{name: a}}, {yaml}}}")).unwrap();
        config.fit_memory(limit_bytes);
        let Settings { max_log_bytes, max_overlay_bytes, client_memory, read_limits, .. } =
            Settings::try_from(config).unwrap();
        let MemoryLimits { output_bytes, all_bytes, .. } = client_memory;
        [max_log_bytes, max_overlay_bytes, all_bytes as u64, output_bytes as u64, read_limits.bytes]
            .map(|bytes| bytes >> 20)
    };
    let none = "log: {level: info}";
    assert_eq!(fitted(none, 4 << 30), [512, 256, 512, 256, 256], "the defaults");
    assert_eq!(fitted(none, 64 << 30), fitted(none, 4 << 30));
    assert_eq!(fitted(none, 512 << 20), [64, 96, 64, 32, 32]);
    assert_eq!(fitted(none, 64 << 20), [32, 64, 16, 8, 16], "no limit is below its minimum");
    for limit_bytes in [512 << 20, 1 << 30, 2 << 30, 4_u64 << 30] {
        let [log, overlay, clients, _, read] = fitted(none, limit_bytes);
        // Beside the cache, a quarter, and the process.
        assert!(log + overlay + clients + 2 * read <= (limit_bytes >> 20) / 16 * 10, "{limit_bytes}");
    }
    let written = "raft: {max_log_bytes: 134217728}, client: {maxmemory_clients: 268435456}";
    assert_eq!(fitted(written, 512 << 20), [128, 96, 256, 32, 32]);
    assert_eq!(fitted("client: {output_buffer_limit: 268435456}", 512 << 20), [64, 96, 512, 256, 32]);
}

#[test]
fn an_unknown_reported_role_is_rejected() {
    let of = |role: &str| settings(&format!("{{node: {{name: a}}, client: {{reported_role: {role}}}}}"));
    assert!(settings("node: {name: a}").unwrap().reports_writable);
    assert!(!of("raft").unwrap().reports_writable);
    assert!(of("slave").unwrap_err().0.contains("write writable or raft"));
}

#[test]
fn an_address_on_every_interface_is_advertised_as_loopback() {
    let found = settings("{node: {name: a}, listen: {peer: ':7005', client: '0.0.0.0:6380'}}").unwrap();
    assert_eq!(found.advertise_addr, "127.0.0.1:7005");
    assert_eq!(found.advertise_client_addr, "127.0.0.1:6380");
    assert_eq!(found.listen_peer, "0.0.0.0:7005".parse().unwrap());
}

#[test]
fn an_idle_limit_of_zero_is_none_and_a_priority_is_at_most_100() {
    let of = |yaml: &str| settings(yaml).unwrap();
    assert_eq!(of("node: {name: a}").idle_timeout, None);
    assert_eq!(of("{node: {name: a}, client: {idle_timeout: 0s}}").idle_timeout, None);
    let ten_minutes = of("{node: {name: a}, client: {idle_timeout: 10m}}").idle_timeout;
    assert_eq!(ten_minutes, Some(Duration::from_secs(600)));
    assert!(refused("{node: {name: a}, client: {idle_timeout: 600}}").contains("client.idle_timeout"));
    assert_eq!(of("{node: {name: a}, raft: {priority: 100}}").priority, 100);
    assert!(refused("{node: {name: a}, raft: {priority: 101}}").contains("from 0 to 100"));
}

#[test]
fn the_delay_of_wrong_passwords_is_a_duration_up_to_ten_seconds() {
    let delay = |text: &str| settings(&format!("{{node: {{name: a}}, auth: {{max_delay: {text}}}}}"));
    assert_eq!(delay("10s").unwrap().max_auth_delay, Duration::from_secs(10));
    assert_eq!(delay("0ms").unwrap().max_auth_delay, Duration::ZERO);
    for wrong in ["11s", "often"] {
        let error = delay(wrong).unwrap_err().0;
        assert!(error.contains("auth.max_delay") && error.contains(wrong), "{error}");
    }
}

#[test]
fn protected_mode_is_on_unless_set_to_false() {
    assert!(settings("node: {name: a}").unwrap().protected_mode);
    assert!(!settings("{node: {name: a}, client: {protected_mode: false}}").unwrap().protected_mode);
    let error = refused("{node: {name: a}, client: {protected_mode: sometimes}}");
    assert!(error.contains("sometimes"), "{error}");
}

#[test]
fn the_management_identity_is_auto_or_required() {
    use super::super::ManagementIdentity;
    let identity = |text: &str| {
        settings(&format!("{{node: {{name: a}}, tls: {{management: {text}}}}}"))
            .map(|found| found.management_identity)
    };
    assert_eq!(settings("node: {name: a}").unwrap().management_identity, ManagementIdentity::Auto);
    assert_eq!(identity("required"), Ok(ManagementIdentity::Required));
    let error = identity("sometimes").unwrap_err().0;
    assert!(error.contains("sometimes") && error.contains("required"), "{error}");
}
