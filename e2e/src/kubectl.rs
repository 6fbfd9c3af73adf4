//! The real `kubectl`, run as a user does, in one namespace.

use std::io::{BufReader, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Error of a command, with the command line.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot run {program}: {source}; scripts/stories.sh installs it")]
    Start { program: String, source: std::io::Error },
    #[error("{command}: {message}")]
    Failed { command: String, message: String },
    #[error("{command} answered something unreadable: {source}")]
    Unreadable { command: String, source: serde_json::Error },
}

impl CommandError {
    /// Returns the program's own message.
    pub fn message(&self) -> String {
        match self {
            Self::Failed { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

/// Runs `program` to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or fails; the error has its standard error output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, CommandError> {
    finish(program, arguments, start(program, arguments, Stdio::null())?)
}

fn start(program: &str, arguments: &[&str], input: Stdio) -> Result<Child, CommandError> {
    Command::new(program)
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CommandError::Start { program: program.to_owned(), source })
}

fn finish(program: &str, arguments: &[&str], child: Child) -> Result<String, CommandError> {
    let failed = |message: String| CommandError::Failed { command: line(program, arguments), message };
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(failed(if said.is_empty() { status.to_string() } else { said }))
}

fn line(program: &str, arguments: &[&str]) -> String {
    format!("{program} {}", arguments.join(" "))
}

/// A command that runs until this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts `command` and returns it with the pipe of its output.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> std::io::Result<(Self, BufReader<ChildStdout>)> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let output = child.stdout.take().expect("it was started with a pipe");
        Ok((Self(child), BufReader::new(output)))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both succeed unless the process has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[derive(Debug, Clone)]
pub struct Kubectl {
    pub namespace: String,
}

impl Kubectl {
    pub fn new(namespace: impl Into<String>) -> Self {
        Self { namespace: namespace.into() }
    }

    /// # Errors
    /// As [`run`].
    pub fn run(&self, arguments: &[&str]) -> Result<String, CommandError> {
        run("kubectl", &self.in_namespace(arguments))
    }

    /// Runs kubectl with `input` on standard input, for `--filename -`.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String, CommandError> {
        let arguments = self.in_namespace(arguments);
        let mut child = start("kubectl", &arguments, Stdio::piped())?;
        if let Some(mut pipe) = child.stdin.take() {
            // When kubectl ends early, its standard error has the better message.
            drop(pipe.write_all(input.as_bytes()));
        }
        finish("kubectl", &arguments, child)
    }

    /// Starts kubectl and returns it with the pipe of its output.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn spawn(&self, arguments: &[&str]) -> Result<(Running, BufReader<ChildStdout>), CommandError> {
        Running::start(Command::new("kubectl").args(self.in_namespace(arguments)))
            .map_err(|source| CommandError::Start { program: "kubectl".to_owned(), source })
    }

    /// # Errors
    /// As [`run`].
    pub fn apply(&self, object: &Value) -> Result<String, CommandError> {
        self.run_with_input(&["apply", "--filename", "-"], &object.to_string())
    }

    /// Returns the object `what`, e.g. `pod/demo-0`.
    ///
    /// # Errors
    /// As [`run`], and when the object is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, what: &str) -> Result<T, CommandError> {
        self.json(&["get", what, "--output", "json"])
    }

    /// Returns all objects of a kind with the labels of `selector`; an empty selector matches all.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn list<T: DeserializeOwned>(&self, kind: &str, selector: &str) -> Result<Vec<T>, CommandError> {
        #[derive(serde::Deserialize)]
        struct List<T> {
            items: Vec<T>,
        }
        let list: List<T> = self.json(&["get", kind, "--selector", selector, "--output", "json"])?;
        Ok(list.items)
    }

    /// Waits for `condition`, e.g. `condition=Ready` or `delete`, of `what`.
    ///
    /// # Errors
    /// As [`run`], and when the condition does not hold within `limit`.
    pub fn wait(&self, what: &str, condition: &str, limit: Duration) -> Result<(), CommandError> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.run(&["wait", what, &format!("--for={condition}"), &timeout]).map(drop)
    }

    /// Returns the response of GET `path` at a pod's port, through the API server, which works from outside
    /// of any cluster.
    ///
    /// # Errors
    /// As [`run`].
    pub fn http_get(&self, pod: &str, port: u16, path: &str) -> Result<String, CommandError> {
        self.run(&["get", "--raw", &self.proxy(pod, port, path)])
    }

    /// As [`Self::http_get`], but by POST without a body; the response is JSON.
    ///
    /// # Errors
    /// As [`run`], and when the response is not a `T`.
    pub fn http_post<T: DeserializeOwned>(
        &self,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<T, CommandError> {
        let arguments = ["create", "--raw", &self.proxy(pod, port, path), "--filename", "-"];
        parse("kubectl", &arguments, &self.run_with_input(&arguments, "")?)
    }

    fn proxy(&self, pod: &str, port: u16, path: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/{path}", self.namespace)
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, CommandError> {
        parse("kubectl", arguments, &self.run(arguments)?)
    }

    fn in_namespace<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        ["--namespace", &self.namespace].into_iter().chain(arguments.iter().copied()).collect()
    }
}

fn parse<T: DeserializeOwned>(program: &str, arguments: &[&str], text: &str) -> Result<T, CommandError> {
    serde_json::from_str(text)
        .map_err(|source| CommandError::Unreadable { command: line(program, arguments), source })
}
