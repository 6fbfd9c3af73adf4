//! Errors: one line, with the remedy.

use crate::dev::ctl;

fn error(words: &[&str]) -> (i32, String) {
    let output = ctl(words);
    assert!(output.stdout.is_empty(), "{output:?}");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn unreachable_cluster_is_unknown() {
    // Nothing listens on port 9 (discard).
    let output = ctl(&["--endpoint", "127.0.0.1:9", "status"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("UNKNOWN: none of 1 addresses answers") && text.contains("peer address"), "{text}");
    let (code, text) = error(&["--endpoint", "127.0.0.1:9", "get", "a"]);
    assert_eq!(code, 1);
    assert!(text.starts_with("heliosctl: no member that answers") && text.lines().count() == 1, "{text}");
}

#[test]
fn invalid_command_line_exits_with_64() {
    for words in
        [&["staus"][..], &["status", "--endpont", "x"], &["transfer"], &["--request-timeout", "5", "status"]]
    {
        let (code, text) = error(words);
        assert_eq!(code, 64, "{words:?}: {text}");
    }
}

#[test]
fn error_without_kubernetes_names_the_alternatives() {
    let (code, text) = error(&["--kubeconfig", "does-not-exist", "status"]);
    assert_eq!(code, 2);
    assert!(text.contains("set KUBECONFIG or --kubeconfig, or name members with --endpoint"), "{text}");
    let (code, text) = error(&["--endpoint", "127.0.0.1:9", "restart"]);
    assert_eq!(code, 1);
    assert_eq!(
        text,
        "heliosctl: this command is about Kubernetes; leave --endpoint and HELIOS_ENDPOINTS out\n"
    );
}

#[test]
fn completion_script_contains_the_commands() {
    let output = ctl(&["completion", "bash"]);
    assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("add-learner"));
}
