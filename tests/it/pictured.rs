//! What explains the made-up alert of the picture: every part that an API answer and a page can show.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use recsae::drift::carriers::Carriers;
use recsae::drift::explanation::{Described, Example, Explanation, RecordEvidence, ReferenceAge, ShownWith, Stretch};
use recsae::drift::heavy::HeavyHitters;
use recsae::drift::report::Direction;
use recsae::record::TopicPartition;
use recsae::sae::latent::LatentId;

const HOUR_MS: i64 = 3_600_000;

/// Of an alert whose change began at `began_ms`: a crowd, and one item that all of it was shown.
pub(crate) fn explanation(began_ms: i64) -> Explanation {
    let (mut before, mut after) = (HeavyHitters::new(2048), HeavyHitters::new(2048));
    for user in 0..400_u64 {
        before.add(user, 1);
        after.add(user, 2 + user % 2);
    }
    let (mut items_before, mut items_after) = (HeavyHitters::new(64), HeavyHitters::new(64));
    for (item, n_before, n_after) in [("Solaris (1972)", 210, 204), ("Moon (2009)", 190, 199), ("Interstellar (2014) & more", 0, 611)] {
        items_before.add(item, n_before);
        items_after.add(item, n_after);
    }
    let stretch = |from: i64, offset: i64, shown: u64| Stretch {
        from,
        to: from + 3 * HOUR_MS,
        records: 15_360,
        shown,
        is_part: false,
        examples: (0..3).map(|n| example(offset + 17 * n)).collect(),
    };
    let records = RecordEvidence {
        before: stretch(began_ms - 3 * HOUR_MS, 201_110, 400),
        after: stretch(began_ms, 260_410, 1_000),
        entities: Some(Carriers::of(&before, &after, 1.0, Direction::Up, |user| format!("{:016x}", user * 0x9E37_79B9 + 0xA1))),
        items: Some(Carriers::of(&items_before, &items_after, 1.0, Direction::Up, |item| (*item).to_owned())),
        shown_with: vec![
            ShownWith { latent: LatentId(4), share: 0.41, lift: 3.2 },
            ShownWith { latent: LatentId(2), share: 0.22, lift: 1.9 },
        ],
    };
    Explanation {
        reference: Some(ReferenceAge {
            name: "first:14d".into(),
            from: began_ms - 360 * HOUR_MS,
            to: began_ms - 24 * HOUR_MS,
            windows: 336,
            age_hours: 31,
        }),
        described: Described {
            records: 5120,
            entities: 1890,
            psi: Some(0.021),
            psi_noise_floor: Some(0.018),
            js: Some(0.004),
            js_noise_floor: Some(0.003),
            concentration: Some(1.01),
            session_mix: Some(0.2),
        },
        records: Some(records),
        unread: None,
    }
}

fn example(offset: i64) -> Example {
    Example {
        partition: TopicPartition { topic: "recommendations".into(), partition: 0 },
        offset,
        entity: Some(format!("{:016x}", offset * 7919)),
        items: vec!["Interstellar (2014) & more".into(), "Moon (2009)".into()],
        activation: Some(1.25),
    }
}
