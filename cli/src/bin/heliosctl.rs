//! `heliosctl`.

fn main() -> std::process::ExitCode {
    heliosctl::main()
}
