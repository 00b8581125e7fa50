//! What an instance shows that follows: the windows, alerts, concepts and pages of the one that judges, but for what is its
//! own. Asked of instances that other tests run, once nothing is on its way.

use std::collections::BTreeSet;
use std::time::Duration;

use regex::Regex;
use serde_json::Value;

use crate::background::until;
use crate::scene::Monitor;

/// Parts of the status that are of the instance: since when it runs, from which file, what it does, what it reads.
const OWN: [&str; 6] = ["started", "config_hash", "judging", "ready", "not_ready", "partitions"];
/// The same on a page, and how long ago something was.
const OWN_ON_PAGE: [&str; 6] = [
    "(?s)<section><h2>Partitions</h2>.*?</section>",
    "(?s)<div class=\"tile[^>]*><h2>Lag</h2>.*?</div>",
    "<span class=\"pill\">(judging|following)</span>",
    "up since [^·]* UTC",
    "[^<>\"(,]* ago",
    "data-age-ms=\"[^<]*",
];
/// Cards and alerts that are looked at.
const SOME: usize = 8;

/// All that the API answers, by path.
fn answers(monitor: &Monitor, paths: &[String]) -> Option<Vec<Value>> {
    paths.iter().map(|path| monitor.api(path)).collect()
}

fn pages(monitor: &Monitor, paths: &[String], own: &[Regex]) -> Option<Vec<String>> {
    let page = |path: &String| {
        let page = monitor.page(path)?;
        Some(own.iter().fold(page, |page, own| own.replace_all(&page, "").into_owned()))
    };
    paths.iter().map(page).collect()
}

fn paths(judge: &Monitor) -> Option<(Vec<String>, Vec<String>)> {
    let (alerts, concepts) = (judge.api("alerts")?, judge.api("concepts?limit=10000")?);
    let ids: Vec<String> = alerts.as_array()?.iter().take(SOME).map(|alert| format!("alerts/{}", alert["id"])).collect();
    let streams: BTreeSet<String> =
        concepts.as_array()?.iter().take(SOME).filter_map(|concept| Some(format!("concepts/{}", concept["stream"].as_str()?))).collect();
    let common = ["windows?limit=10000", "windows?segment=_all", "alerts", "concepts?limit=10000"].map(str::to_owned);
    let of_api = common.into_iter().chain(ids.iter().cloned()).chain(streams.iter().cloned()).collect();
    let of_page = ["", "concepts", "reference"].map(str::to_owned).into_iter().chain(ids).chain(streams).collect();
    Some((of_api, of_page))
}

/// What differs between the two, in words; else how much was the same.
fn compare(both: [&Monitor; 2], (of_api, of_page): &(Vec<String>, Vec<String>), own: &[Regex]) -> Result<String, String> {
    let [shown, follows] = both.map(|monitor| answers(monitor, of_api));
    let (shown, follows) = (shown.ok_or("the judge does not answer")?, follows.ok_or("the follower does not answer")?);
    if let Some((path, _)) = of_api.iter().zip(shown.iter().zip(&follows)).find(|(_, (shown, follows))| shown != follows) {
        return Err(format!("/api/v1/{path}"));
    }
    let [pages, its] = both.map(|monitor| pages(monitor, of_page, own).unwrap_or_default());
    if let Some((path, (page, its))) = of_page.iter().zip(pages.iter().zip(&its)).find(|(_, (page, its))| page != its) {
        let same = page.bytes().zip(its.bytes()).take_while(|(page, its)| page == its).count();
        let around = |page: &str| page.bytes().skip(same.saturating_sub(200)).take(400).map(char::from).collect::<String>();
        return Err(format!("/{path}\n{}\n\n{}", around(page), around(its)));
    }
    let statuses = both.map(|monitor| {
        let mut status = monitor.api("status").unwrap_or_default();
        OWN.iter().for_each(|own| drop(status.as_object_mut().map(|status| status.remove(*own))));
        status
    });
    if statuses[0] != statuses[1] || pages.len() != of_page.len() {
        return Err(format!("{statuses:#?}"));
    }
    let n = |answer: &Value| answer.as_array().map_or(0, Vec::len);
    let [windows, alerts, concepts] = [0, 2, 3].map(|at| n(&shown[at]));
    assert!(windows > 0 && alerts > 0 && concepts > 0, "{windows} {alerts} {concepts}");
    let (details, pages) = (shown.len() - 4, pages.len());
    Ok(format!("{windows} windows by segment, {alerts} alerts, {concepts} concepts, {details} details and {pages} pages"))
}

/// The follower shows what the judge shows, in its API and on its pages; its own partitions are none of the judge's.
pub(crate) fn assert_same_picture(judge: &Monitor, follower: &Monitor) {
    let (paths, own) = (paths(judge).unwrap(), OWN_ON_PAGE.map(|own| Regex::new(own).unwrap()));
    let both = [judge, follower];
    // Explanations come through the log a little after their alerts.
    let look = || compare(both, &paths, &own).ok();
    let same = until(Duration::from_secs(20), look, || compare(both, &paths, &own).err().unwrap_or_default());
    println!("judge and follower show the same: {same}");
    let statuses = both.map(|monitor| monitor.api("status").unwrap());
    assert_eq!(statuses.each_ref().map(|status| status["judging"].as_bool().unwrap()), [true, false]);
    let partitions = statuses.each_ref().map(|status| {
        let at = |at: &Value| (at["topic"].to_string(), at["partition"].to_string());
        status["partitions"].as_array().unwrap().iter().map(at).collect::<BTreeSet<_>>()
    });
    assert!(partitions[0].is_disjoint(&partitions[1]), "{partitions:?}");
}
