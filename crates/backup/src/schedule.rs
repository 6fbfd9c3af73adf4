//! `backup schedule --print`: backups by systemd, for machines without Kubernetes. Pure.

use serde_json::json;

use crate::args::ScheduleArgs;
use crate::documents::Answer;

pub fn units(args: &ScheduleArgs) -> Answer {
    let (service, timer) = (service(args), timer(args));
    let text = format!(
        "# Save the two parts under the names in their first lines, then: systemctl daemon-reload && \
         systemctl enable --now helios-backup.timer\n\n\
         # /etc/systemd/system/helios-backup.service\n{service}\n# /etc/systemd/system/helios-backup.timer\n{timer}"
    );
    Answer::new(json!({"helios-backup.service": service, "helios-backup.timer": timer}), text)
}

/// A word of ExecStart=: quoted, with the specifiers and variables of systemd escaped.
fn word(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

fn service(args: &ScheduleArgs) -> String {
    let (store, members) = (&args.store, &args.members);
    let mut flags = vec![("--store", store.store.clone()), ("--members", members.members.join(","))];
    let mut add = |flag, value: Option<String>| flags.extend(value.map(|value| (flag, value)));
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    add("--key-dir", path(&store.key_dir));
    add("--user", members.user.clone());
    add("--password-file", path(&members.password_file));
    add("--tls-ca-file", path(&members.tls_ca_file));
    add("--tls-cert-file", path(&members.tls_cert_file));
    add("--tls-key-file", path(&members.tls_key_file));
    let flags: String = flags.iter().map(|(flag, value)| format!(" \\\n  {flag} {}", word(value))).collect();
    let unencrypted = if store.accept_unencrypted { " \\\n  --accept-unencrypted" } else { "" };
    format!(
        "[Unit]\nDescription=Backup of HeliosDB\nWants=network-online.target\nAfter=network-online.target\n\n\
         [Service]\nType=oneshot\nEnvironmentFile=-{}\nExecStart=/usr/local/bin/heliosctl backup create{flags}{unencrypted}\n\
         NoNewPrivileges=yes\nProtectSystem=full\nPrivateTmp=yes\n",
        args.environment_file.display()
    )
}

fn timer(args: &ScheduleArgs) -> String {
    format!(
        "[Unit]\nDescription=Regular backups of HeliosDB\n\n[Timer]\nOnCalendar={}\nPersistent=yes\n\
         RandomizedDelaySec=60\n\n[Install]\nWantedBy=timers.target\n",
        args.at
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ScheduleArgs,
    }

    #[test]
    fn units_have_the_flags_of_the_command_line_and_no_open_specifiers() {
        let line =
            ["x", "--print", "--store", "s3://b/100%?region=$x", "--members", "a:1,b:2", "--user", "backup"];
        let Line { args } = Line::parse_from(line);
        let Answer { text, document, .. } = units(&args);
        let service = document["helios-backup.service"].as_str().unwrap();
        assert!(service.contains(r#"--store "s3://b/100%%?region=$$x""#), "{service}");
        assert!(service.contains(r#"--members "a:1,b:2""#) && service.contains(r#"--user "backup""#));
        assert!(text.contains("OnCalendar=*-*-* 03:00:00") && text.contains(service));
    }

    #[test]
    fn systemd_reads_the_units_without_a_complaint() {
        let analyze = |args: &[&str]| std::process::Command::new("systemd-analyze").args(args).output();
        if analyze(&["--version"]).is_err() {
            return helios_testing::skip_or_fail("systemd", "install the Debian package systemd");
        }
        let line = ["x", "--print", "--store", "s3://b/100%?x=$y", "--members", "a:1,b:2", "--at", "hourly"];
        let Answer { document, .. } = units(&Line::parse_from(line).args);
        let dir = tempfile::tempdir().unwrap();
        let files = ["helios-backup.service", "helios-backup.timer"].map(|name| {
            // A program that is not there is a complaint.
            let program = std::env::current_exe().unwrap().display().to_string();
            let text = document[name].as_str().unwrap().replace("/usr/local/bin/heliosctl", &program);
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        });
        let output = analyze(&["verify", "--man=no", &files[0], &files[1]]).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
