//! Completion plugin, which kubectl calls when the user presses Tab after `kubectl helios`.

fn main() {
    print!("{}", heliosctl::complete(&std::env::args().skip(1).collect::<Vec<_>>()));
}
