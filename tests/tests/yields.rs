//! What yields give and take, by bare vCPUs in virtual time: a third task keeps
//! its share, yielding gains nothing, and a hand-over takes one yield.

use e2e::probe;
use testbed::kernel::Variant;

#[test]
fn tmp() {
    for v in [Variant::Stock, Variant::Patched] {
        let commands = std::env::var("CMDS").unwrap();
        let commands: Vec<&str> = commands.split(';').collect();
        let results = probe(v, 2, &commands).0;
        for (c, r) in commands.iter().zip(results) {
            println!("{} {c}: {r}", v.name());
        }
    }
}
