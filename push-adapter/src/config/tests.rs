//! Which flags are refused, and what is said of them.

use super::*;

fn refused(change: impl FnOnce(&mut PushArgs)) -> String {
    let mut args = PushArgs::default();
    change(&mut args);
    args.validate().unwrap_err().to_string()
}

#[test]
fn the_defaults_are_accepted() {
    PushArgs::default().validate().unwrap();
}

#[test]
fn listening_beyond_this_machine_needs_insecure() {
    let beyond: SocketAddr = "0.0.0.0:8081".parse().unwrap();
    for flag in ["--listen", "--fans-listen", "--management-listen"] {
        let error = refused(|args| match flag {
            "--listen" => args.listen = beyond,
            "--fans-listen" => args.fans_listen = beyond,
            _ => args.management_listen = beyond,
        });
        assert!(
            error.starts_with(&format!("{flag} 0.0.0.0:8081")),
            "{error}"
        );
        assert!(error.contains("--insecure"), "{error}");
    }
    let observed = PushArgs {
        metrics_listen: beyond,
        ..PushArgs::default()
    };
    observed.validate().unwrap();
    let meant = PushArgs {
        fans_listen: beyond,
        insecure: true,
        ..PushArgs::default()
    };
    meant.validate().unwrap();
}

#[test]
fn an_address_that_nobody_can_reach_needs_one_to_advertise() {
    let error = refused(|args| {
        args.insecure = true;
        args.listen = "0.0.0.0:50052".parse().unwrap();
    });
    assert_eq!(
        error,
        "--listen 0.0.0.0:50052: others reach it by no such address; --advertise names one"
    );
}

#[test]
fn who_never_leads_is_a_front() {
    let fronts = |sole_leader, connections| PushArgs {
        never_lead: true,
        sole_leader,
        connections,
        ..PushArgs::default()
    };
    fronts(false, Front::Local).validate().unwrap();
    for (sole_leader, connections) in [(true, Front::Local), (false, Front::ApiGateway)] {
        let error = fronts(sole_leader, connections).validate().unwrap_err();
        assert!(error.to_string().starts_with("--never-lead true: accepted"));
    }
}

#[test]
fn a_refused_value_is_named_with_its_flag_and_what_would_be_accepted() {
    assert_eq!(
        refused(|args| args.lookup.server = "localhost".to_owned()),
        "--server localhost: an http:// or https:// URL is accepted"
    );
    assert_eq!(
        refused(|args| args.lookup.batch_consumers = 1_001),
        "--batch-consumers 1001: 1 to 1000 are accepted"
    );
    assert_eq!(
        refused(|args| args.lease_duration = Duration::from_millis(1)),
        "--lease-duration 1ms: 500ms to 5m are accepted"
    );
    assert_eq!(
        refused(|args| args.post_timeout = Duration::from_millis(1_001)),
        "--post-timeout 1s 1ms: a leader stops posting so long before its lease ends, so at most \
         half of --lease-duration is accepted: 1s"
    );
    assert_eq!(
        refused(|args| args.fans.fans_max = 0),
        "--fans-max 0: 1 to 10000000 are accepted"
    );
    assert_eq!(
        refused(|args| args.fans.fan_idle_timeout = Duration::from_hours(25)),
        "--fan-idle-timeout 1day 1h: 1ms to 1day are accepted"
    );
    assert_eq!(
        refused(|args| args.stage = "a/b".to_owned()),
        "--stage a/b: letters, digits, - and _ are accepted, at most 128"
    );
}
