use std::io::Write;
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let world = recsae::simulate::world::World::new(args[0], 1000 * 24 * 3_600_000).unwrap();
    let mut raw = std::fs::File::create("/tmp/w/emb.f32").unwrap();
    let mut rows = std::fs::File::create("/tmp/w/rows.tsv").unwrap();
    for w in 0..args[1] {
        for r in world.window(w).records {
            for v in &r.embedding {
                let v: f32 = format!("{v:.4}").parse().unwrap();
                raw.write_all(&v.to_le_bytes()).unwrap();
            }
            let items: Vec<String> = r.items.iter().map(|i| format!("item-{i}")).collect();
            let concepts: Vec<String> = r.concepts.iter().map(ToString::to_string).collect();
            writeln!(rows, "user-{}\t{}\t{}\t{}\t{}", r.user, r.time_ms, r.surface, items.join(","), concepts.join(",")).unwrap();
        }
    }
    let mut items = std::fs::File::create("/tmp/w/items.tsv").unwrap();
    for c in 0..128 {
        for i in world.items_of(c) {
            writeln!(items, "item-{i}\t{}\t{}", recsae::simulate::words::concept_name(c), recsae::simulate::words::item_title(*i)).unwrap();
        }
    }
}
