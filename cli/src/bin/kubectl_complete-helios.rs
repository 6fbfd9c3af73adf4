//! What kubectl asks when a person presses Tab after `kubectl helios`.

fn main() {
    print!("{}", heliosctl::complete(&std::env::args().skip(1).collect::<Vec<_>>()));
}
