//! What `recsae steer evaluate` prints: every tag, failures included, and the recipes against popularity.

use std::io::Write;

use crate::workshop::steer::SteerReport;
use crate::workshop::steer::lists::ListReport;
use crate::workshop::steer::popularity::PopularityReport;
use crate::workshop::steer::tag_response::TagResponse;

/// Prints the table.
///
/// # Errors
/// Nothing can be written.
pub fn print(out: &mut impl Write, report: &SteerReport) -> std::io::Result<()> {
    writeln!(
        out,
        "{:<14} {:>7} {:>5}  share before -> after [95 %]           controls (latents, random)   NDCG",
        "tag", "latents", "dose"
    )?;
    report.tags.iter().try_for_each(|tag| line(out, tag))?;
    let moved = report.tags.iter().filter(|tag| tag.moved).count();
    let steered = report.tags.iter().filter(|tag| tag.chosen.is_some()).count();
    let of = if report.by_accepted_concepts {
        let accepted = report.tags.iter().filter(|tag| tag.why_not != Some("no accepted concept")).count();
        format!("{accepted} tags with an accepted concept")
    } else {
        format!("{} tags", report.tags.len())
    };
    writeln!(out, "{moved} of {of} moved beyond both controls; a dose was found for {steered}")?;
    report.popularity.as_ref().map_or(Ok(()), |popularity| recipes(out, popularity))
}

fn line(out: &mut impl Write, tag: &TagResponse) -> std::io::Result<()> {
    let before = tag.before.share.mean;
    match &tag.chosen {
        None => writeln!(out, "{:<14} {:>7}     -  {before:.3}   {}", tag.tag, tag.latents.len(), tag.why_not.unwrap_or_default()),
        Some(c) => writeln!(
            out,
            "{:<14} {:>7} {:>5}  {before:.3} -> {:.3} [{:.3}, {:.3}]  {}  {:.3}, {:.3}   {:.4} -> {:.4}",
            tag.tag,
            tag.latents.len(),
            c.dose,
            c.share.mean,
            c.share.low,
            c.share.high,
            if tag.moved { "moved    " } else { "not moved" },
            c.control_latents.mean,
            c.random_direction.mean,
            tag.before.lists.ndcg,
            c.lists.ndcg
        ),
    }
}

fn recipes(out: &mut impl Write, popularity: &PopularityReport) -> std::io::Result<()> {
    let lists =
        |of: &ListReport| format!("coverage {:.3}, Gini {:.3}, NDCG {:.4}, overlap {:.3}", of.coverage, of.gini, of.ndcg, of.overlap);
    writeln!(out, "popularity, unsteered: {}", lists(&popularity.before))?;
    for recipe in &popularity.recipes {
        let Some(edit) = &recipe.edit else {
            writeln!(out, "popularity, {}: nothing raised coverage at its cost", recipe.recipe)?;
            continue;
        };
        let ((latents_low, latents_high), (random_low, random_high)) = (recipe.control_latents, recipe.random_directions);
        writeln!(
            out,
            "popularity, {} {} latents (mean d {:.2}): {}; controls' coverage {latents_low:.3} to {latents_high:.3}, {random_low:.3} to {random_high:.3}: {}",
            recipe.recipe,
            edit.latents.len(),
            recipe.cohens_d,
            lists(&recipe.lists),
            if recipe.raised { "raised" } else { "not raised beyond every control" }
        )?;
        writeln!(out, "  recsae steer plan {}", edit.words())?;
    }
    Ok(())
}
