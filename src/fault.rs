//! Named places at which a test kills the program, and faults it plants. Nothing of it is in a release:
//! without `fail`'s feature, which only builds of tests switch on, every call here is empty.
//!
//! `FAILPOINTS="step-stored=3*off->return"` kills at the fourth pass of that point (`fail`'s own syntax).

/// A point at which the process can be killed: no destructor runs, no buffer is flushed, as by SIGKILL.
#[inline]
pub fn point(name: &str) {
    fail::fail_point!(name, |_| std::process::abort());
    // Without the feature the macro leaves nothing behind.
    let _ = name;
}

/// Whether a test has planted this fault: a mutant that the harness must catch.
#[inline]
#[must_use]
pub fn planted(name: &str) -> bool {
    fail::fail_point!(name, |_| true);
    let _ = name;
    false
}

/// Reads `FAILPOINTS`; points are armed while the guard lives.
#[must_use]
pub fn arm() -> Option<fail::FailScenario<'static>> {
    fail::has_failpoints().then(fail::FailScenario::setup)
}

/// Points in the order in which a record meets them.
pub const POINTS: [&str; 18] = [
    "poll",
    "decode",
    "encode",
    "count",
    "close",
    "dead-letter-sent",
    "dead-letter-acked",
    "step-sent",
    "step-begun",
    "step-written",
    "step-stored",
    "step-acked",
    "commit-sent",
    "commit-done",
    "judge-begun",
    "judgement-written",
    "judgement-stored",
    "drain",
];

/// Points that an instance in a cluster meets beside those, in the order in which a step meets them; of those it does not
/// meet `step-begun`, `step-written` and `step-stored`, which are of a store that takes steps itself.
pub const CLUSTER_POINTS: [&str; 6] = ["part-published", "step-published", "news-kept", "order-sent", "entry-written", "entry-kept"];

/// Passed between the two rounds of a rebalance, by who has given partitions up.
pub const RELEASED: &str = "partitions-released";
