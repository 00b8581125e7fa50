//! What becomes of steps, alone and together.

use super::*;

#[test]
fn a_step_is_applied_replayed_or_a_gap_as_the_table_says() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    assert_eq!(store.apply_step(&step(0, 50, 100, vec![])).unwrap(), StepOutcome::Applied);
    assert_eq!(store.apply_step(&step(0, 100, 120, vec![])).unwrap(), StepOutcome::Applied);
    assert_eq!(store.apply_step(&step(0, 100, 120, vec![])).unwrap(), StepOutcome::Replayed);
    assert_eq!(store.apply_step(&step(0, 110, 130, vec![])).unwrap(), StepOutcome::Applied);
    assert_eq!(store.apply_step(&step(0, 140, 150, vec![])).unwrap(), StepOutcome::Gap { stored: 130 });
    drop(store);
    let store = open(&path);
    let positions = store.read().positions().unwrap();
    assert_eq!(positions, BTreeMap::from([(partition(0), position(130, 110))]));
}

#[test]
fn steps_together_are_what_they_are_one_by_one_and_one_that_is_refused_takes_all_with_it() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    let steps = [
        step(0, 0, 41, vec![partial(0, 1000)]),
        step(1, 5, 41, vec![partial(1, 1000)]),
        step(0, 41, 60, vec![partial(0, 2000)]),
        step(1, 5, 41, vec![partial(1, 1000)]),
        step(0, 70, 90, vec![partial(0, 3000)]),
    ];
    let (_other_folder, other_path) = temp();
    let mut alone = open(&other_path);
    let one_by_one: Vec<StepOutcome> = steps.iter().map(|step| alone.apply_step(step).unwrap()).collect();
    use StepOutcome::{Applied, Gap, Replayed};
    assert_eq!(one_by_one, [Applied, Applied, Applied, Replayed, Gap { stored: 60 }]);
    assert_eq!(store.apply_steps(&steps.iter().collect::<Vec<_>>()).unwrap(), one_by_one);
    let held = |store: &Store| {
        let parts = [1000, 2000, 3000].map(|start_ms| store.read().partials_of(start_ms).unwrap());
        (store.read().positions().unwrap(), parts)
    };
    assert_eq!(held(&store), held(&alone));

    let mut unequal = partial(1, 1000);
    unequal.models.get_mut("").unwrap().get_mut("_all").unwrap().records += 1;
    let before = held(&store);
    let refused = store.apply_steps(&[&step(0, 60, 90, vec![partial(0, 3000)]), &step(1, 41, 50, vec![unequal])]).unwrap_err();
    assert_eq!((refused.kind(), held(&store)), ("unequal_partial", before));
    assert!(store.apply_steps(&[]).unwrap().is_empty());
}

#[test]
fn an_equal_part_of_a_window_is_ignored_and_an_unequal_one_is_named() {
    let (_folder, path) = temp();
    let mut store = open(&path);
    assert_eq!(store.apply_step(&step(0, 0, 41, vec![partial(0, 1000)])).unwrap(), StepOutcome::Applied);
    assert_eq!(store.apply_step(&step(0, 0, 41, vec![partial(0, 1000)])).unwrap(), StepOutcome::Replayed);
    let mut other = partial(0, 1000);
    other.models.get_mut("").unwrap().get_mut("_all").unwrap().records += 1;
    let error = store.apply_step(&step(0, 41, 50, vec![partial(0, 2000), other])).unwrap_err();
    assert_eq!(error.kind(), "unequal_partial");
    assert!(error.to_string().contains("window 1000 of recommendations[0]"), "{error}");
    assert!(store.read().partials_of(2000).unwrap().is_empty(), "nothing of a refused step is stored");
    assert_eq!(store.read().partials_of(1000).unwrap(), vec![partial(0, 1000)]);
}
