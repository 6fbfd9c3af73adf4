//! `kubectl helios`.

fn main() -> std::process::ExitCode {
    heliosctl::main()
}
