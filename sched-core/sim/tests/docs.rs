//! docs/simulator.md knows every key of a scenario, and every variant.

/// Every key and variant that a scenario may have is on the page: serde names the known
/// ones when it meets one that it doesn't know.
#[test]
fn every_key_is_on_the_page() {
    let page = include_str!("../../../docs/simulator.md");
    for nonsense in [
        "x = 1",
        "[host]\nx = 1",
        "[host.cost]\nx = 1",
        "[[vm]]\nx = 1",
        "[[vm]]\nsteps = [{ x = 1 }]",
        "[[vm]]\nsteps = [{ do = \"x\" }]",
        "[hogs]\nx = 1",
        "[[sweep]]\nx = 1",
        "[[variant]]\nx = 1",
    ] {
        let said = sched_sim::scenario::Scenario::parse(nonsense, "t")
            .unwrap_err()
            .to_string();
        let known = said
            .split_once("expected one of ")
            .or(said.split_once("expected "));
        let (_, known) = known.unwrap_or_else(|| panic!("{said}"));
        for name in known.split('`').skip(1).step_by(2) {
            assert!(page.contains(name), "{name} is not in docs/simulator.md");
        }
    }
    for variant in sched_sim::policy::Variant::known() {
        let name = variant.name.as_ref();
        assert!(page.contains(name), "{name} is not in docs/simulator.md");
    }
}
