//! `dense-bench run` on a KVM host, which here is the emulated one: it leaves out what the
//! running kernel can't do, measures the rest, marks cells that fail, and goes on.

use dense_record::chosen::HostKernel;
use dense_record::job::{Done, Job, Launch};
use e2e::{host_with_bench, run_host};

/// The program with these words; disks in the host's tmpfs.
fn dense_bench(words: &str) -> Launch {
    Launch {
        command: words.split(' ').map(String::from).collect(),
        input: String::new(),
    }
}

#[test]
fn a_plan_runs_on_the_patched_kernel_of_a_host() {
    const HERE: &str = "--images /vmfirst --scratch /run";
    let job = Job::Launches(vec![
        dense_bench(&format!(
            "/vmfirst/dense-bench run smoke --seeds 1 --out /tmp/smoke {HERE}"
        )),
        // Of these workloads the host has no images.
        dense_bench(&format!(
            "/vmfirst/dense-bench run controls --seeds 1 --only */1x2on4/*/vmfirst/* --out /tmp/failed {HERE}"
        )),
        dense_bench("/vmfirst/dense-bench report /tmp/smoke /tmp/failed --out /tmp/both"),
        dense_bench("/vmfirst/dense-bench report /tmp/smoke"),
    ]);
    let host = host_with_bench(HostKernel::Patched);
    let (output, done) = run_host(&host, &job, 1);
    let Done::Launches(launched) = done else {
        panic!("{done:?}");
    };
    let codes: Vec<_> = launched.iter().map(|l| l.code).collect();
    assert_eq!(codes, [0, 1, 1, 0].map(Some), "{launched:?}");
    let [smoke, failed, _, again] = &launched[..] else {
        panic!("{launched:?}");
    };
    let table = smoke.console.join("\n");
    for words in ["vmfirst-off", "M iterations/s", "AMD EPYC", "CPUs 0-3"] {
        assert!(table.contains(words), "{words}: {table}");
    }
    assert_eq!(again.console, smoke.console);
    let lines = failed
        .console
        .iter()
        .filter(|l| l.starts_with("- no result: "));
    assert_eq!(lines.count(), 2, "{failed:?}");
    assert!(
        failed
            .console
            .iter()
            .any(|l| l.contains("cannot find /vmfirst/guest/dedup.cpio"))
    );

    let console = String::from_utf8_lossy(&output.console);
    assert!(
        console.contains("variants of the stock kernel are left out"),
        "{console}"
    );
    assert!(
        console.contains("of another plan or other versions"),
        "{console}"
    );
    assert!(!console.contains("cannot restore"), "{console}");
}
