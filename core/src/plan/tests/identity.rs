//! OOM scores and process ids.

use super::super::*;
use super::{blockers, looked_up, source, target};
use crate::ids::NsPid;

#[test]
fn the_pods_oom_score_replaces_the_old_pods_and_no_other() {
    let mut source = source(true);
    source.oom_scores = [(1, 300), (7, 300), (8, -999)]
        .map(|(pid, score)| (NsPid(pid), score))
        .into();
    let mut target = target();
    let scores = |target: &Target| {
        let plan = plan(
            &source,
            &looked_up(&source, target.clone(), 0, &[]),
            &Policy::default(),
        );
        plan.oom_scores
    };
    assert_eq!(scores(&target), []);
    target.oom_score = Some(300);
    assert_eq!(scores(&target), []);
    target.oom_score = Some(700);
    let expected = [1, 7].map(|pid| OomScore {
        pid: NsPid(pid),
        old: 300,
        new: 700,
    });
    assert_eq!(scores(&target), expected);
}

#[test]
fn a_score_of_zero_is_told_even_where_it_stays() {
    let mut source = source(true);
    source.oom_scores = [(1, 300), (7, 0)]
        .map(|(pid, score)| (NsPid(pid), score))
        .into();
    let mut target = target();
    let scores = |source: &Source, target: &Target| {
        let looked_up = looked_up(source, target.clone(), 0, &[]);
        let scores = plan(source, &looked_up, &Policy::default()).oom_scores;
        scores
            .iter()
            .map(|score| (score.pid.0, score.old, score.new))
            .collect::<Vec<_>>()
    };
    target.oom_score = Some(300);
    assert_eq!(scores(&source, &target), [(7, 0, 0)]);
    target.oom_score = Some(0);
    assert_eq!(scores(&source, &target), [(1, 300, 0), (7, 0, 0)]);
    source.oom_scores.insert(NsPid(1), 0);
    assert_eq!(scores(&source, &target), [(1, 0, 0), (7, 0, 0)]);
}

#[test]
fn an_id_that_is_taken_is_named_with_who_has_it() {
    let mut source = source(true);
    source.ids = [1, 7].map(NsPid).into();
    let mut target = target();
    target.occupied = [(6, "a"), (7, "nginx")]
        .map(|(pid, name)| (NsPid(pid), name.to_owned()))
        .into();
    let plan = plan(
        &source,
        &looked_up(&source, target, 0, &[]),
        &Policy::default(),
    );
    let found = blockers(&plan);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("process 7: its id is taken by nginx"),
        "{found:?}"
    );
}
