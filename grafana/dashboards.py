#!/usr/bin/env python3
"""Writes dashboards/*.json: panels as one line each, so that a change of a query is one line of a diff.

usage: grafana/dashboards.py [FOLDER]     (a test compares the committed files with a fresh run)
"""
import json
import pathlib
import sys

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
OF = 'job=~"$job",instance=~"$instance"'
STREAM = OF + ',model_version=~"$model_version",segment=~"$segment",stream=~"$stream"'
SEGMENT = OF + ',model_version=~"$model_version",segment=~"$segment"'
ON = "on (job, model_version, stream) group_left (concept)"
# One name a stream, whatever the number of scraped instances.
NAME = f"topk by (job, model_version, stream) (1, max by (job, model_version, stream, concept) (recsae_concept_info{{{OF}}}))"
PER_STREAM = "max by (job, model_version, segment, stream)"
STATES = {"-1": ("no verdict", "text"), "0": ("ok", "green"), "1": ("warn", "yellow"), "2": ("alert", "red"), "3": ("recovered", "blue")}
VERDICTS = ["judged", "warm-up", "insufficient reference", "no data", "volume", "session mix", "calendar", "contract broken", "incomplete", "merging", "entities split"]


def query(expr, legend="", instant=False, fmt="time_series"):
    return {"datasource": DATASOURCE, "expr": expr, "legendFormat": legend, "instant": instant, "range": not instant, "format": fmt}


def panel(kind, title, description, unit, *queries, width=12, height=8, maximum=None, minimum=None, mappings=None, options=None, transformations=None):
    defaults = {"unit": unit, "custom": {}, "mappings": mappings or [], "color": {"mode": "palette-classic" if kind == "timeseries" else "thresholds"}}
    if kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 0, "lineWidth": 2, "showPoints": "auto", "spanNulls": False}
    if maximum is not None:
        defaults["max"] = maximum
    if minimum is not None:
        defaults["min"] = minimum
    shown = {
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "stat": {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}},
        "table": {"showHeader": True, "cellHeight": "sm"},
        "state-timeline": {"showValue": "never", "rowHeight": 0.9, "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}},
    }[kind]
    return {
        "type": kind, "title": title, "description": description, "datasource": DATASOURCE,
        "targets": [q | {"refId": chr(65 + i)} for i, q in enumerate(queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": shown | (options or {}),
        "transformations": transformations or [], "gridPos": {"w": width, "h": height},
    }


def mapping(named):
    return [{"type": "value", "options": {value: {"text": text, "color": color, "index": i} for i, (value, (text, color)) in enumerate(named.items())}}]


VERDICT_MAP = mapping({str(i): (text, "green" if i == 0 else "orange" if i < 7 else "red") for i, text in enumerate(VERDICTS)})


def variable(name, label, expr, multi=True):
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1, "multi": multi, "includeAll": multi,
        "allValue": ".+" if multi else None, "current": {"text": "All", "value": "$__all"} if multi else {}, "options": [],
        "query": {"query": expr, "refId": "variable"}, "definition": expr,
    }


def dashboard(uid, title, description, variables, panels):
    x = y = row = 0
    for i, one in enumerate(panels):
        at = one["gridPos"]
        if x + at["w"] > 24:
            x, y, row = 0, y + row, 0
        one["gridPos"], one["id"] = {"x": x, "y": y} | at, i + 1
        x, row = x + at["w"], max(row, at["h"])
    sources = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "options": [], "refresh": 1}
    common = [variable("job", "Job", "label_values(recsae_build_info, job)"), variable("instance", "Instance", 'label_values(recsae_build_info{job=~"$job"}, instance)')]
    annotation = lambda name, color, expr, text: {"name": name, "datasource": DATASOURCE, "enable": True, "iconColor": color, "expr": expr, "titleFormat": text, "step": "60s"}
    return {
        "uid": uid, "title": title, "description": description, "tags": ["recsae"], "editable": False, "schemaVersion": 39, "version": 1,
        "timezone": "browser", "refresh": "1m", "time": {"from": "now-24h", "to": "now"}, "fiscalYearStartMonth": 0, "graphTooltip": 1,
        "links": [{"title": "recsae", "type": "dashboards", "tags": ["recsae"], "asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""}],
        "templating": {"list": [sources, *common, *variables]},
        "annotations": {"list": [
            annotation("Drift alerts", "red", 'ALERTS{alertname="RecsaeConceptDrift",alertstate="firing"}', "{{concept}} in {{segment}}"),
            annotation("Model changes", "blue", f"recsae_sae_info{{{OF}}} unless recsae_sae_info{{{OF}}} offset 5m", "SAE {{fingerprint}} for {{model_version}}"),
        ]},
        "panels": panels,
    }


def overview():
    closest = f"topk(20, {PER_STREAM} (recsae_concept_evidence_log{{{OF}}} / recsae_concept_threshold_log{{{OF}}}) * {ON} {NAME})"
    return dashboard("recsae-overview", "recsae: overview", "What the recommender has started to think, and whether the monitor can be believed.", [], [
        panel("stat", "Streams in alert", "Concepts, by segment, that crossed their threshold and have not recovered.", "short", query(f"sum(recsae_concept_state{{{OF}}} == bool 2)"), width=4, height=4),
        panel("stat", "Streams in warning", "Evidence above a hundredth of the alarm level.", "short", query(f"sum(recsae_concept_state{{{OF}}} == bool 1)"), width=4, height=4),
        panel("stat", "Streams tested", "Every one of them shares the false-alarm budget.", "short", query(f"sum(recsae_streams_tested{{{OF}}})"), width=4, height=4),
        panel("stat", "Records", "Records polled for the first time, per second.", "reqps", query(f"sum(rate(recsae_records_consumed_total{{{OF}}}[$__rate_interval]))"), width=4, height=4),
        panel("stat", "Lag", "Age of the oldest unread record.", "s", query(f"max(recsae_consumer_lag_seconds{{{OF}}})"), width=4, height=4),
        panel("stat", "Broken contracts", "Segments in which the SAE does not fit its input: no verdict is given there.", "short", query(f"sum(recsae_contract_broken{{{OF}}})"), width=4, height=4),
        panel("table", "Closest to their threshold", "Evidence over threshold, both logarithms: 1 is an alarm. In alert the evidence keeps its value at the alarm.", "percentunit",
              query(closest, instant=True, fmt="table"), width=24, height=9,
              transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True, "job": True}, "renameByName": {"Value": "evidence / threshold"}}}]),
        panel("timeseries", "Evidence over threshold", "The five streams with the most evidence. It falls back to zero after an alarm's recovery.", "percentunit",
              query(f"topk(5, {PER_STREAM} (recsae_concept_evidence_log{{{OF}}} / recsae_concept_threshold_log{{{OF}}}) * {ON} {NAME})", "{{concept}} · {{segment}}"), minimum=0),
        panel("timeseries", "Ratio to the reference", "Counted over expected since the change point, of the streams in the list above.", "short",
              query(f"topk(5, {PER_STREAM} (recsae_concept_ratio{{{OF}}}) * {ON} {NAME})", "{{concept}} · {{segment}}"), minimum=0),
        panel("state-timeline", "Verdict by segment", "Whether windows could be judged, and if not why.", "short", query(f"max by (model_version, segment) (recsae_segment_state{{{OF}}})", "{{segment}}"), mappings=VERDICT_MAP),
        panel("timeseries", "Alerts opened", "Alerts opened per hour, by direction.", "short", query(f"sum by (direction) (increase(recsae_drift_alerts_total{{{OF}}}[1h]))", "{{direction}}"), minimum=0),
        panel("stat", "Reference age", "A reference that is never renewed alarms for ever on slow, wanted change.", "s", query(f"time() - max by (model_version) (recsae_reference_created_timestamp_seconds{{{OF}}})", "{{model_version}}"), width=8, height=5),
        panel("stat", "Reference windows", "Windows the reference was made of.", "short", query(f"max by (model_version) (recsae_reference_windows{{{OF}}})", "{{model_version}}"), width=8, height=5),
        panel("stat", "False-alarm budget", "Windows per allowed false alarm, over all streams together.", "short", query(f"max(recsae_false_alarm_budget_windows{{{OF}}})"), width=8, height=5),
    ])


def concept():
    one = lambda metric: f"{PER_STREAM} ({metric}{{{STREAM}}}) * {ON} {NAME}"
    variables = [
        variable("model_version", "Model", f"label_values(recsae_concept_state{{{OF}}}, model_version)"),
        variable("segment", "Segment", f'label_values(recsae_concept_state{{{OF},model_version=~"$model_version"}}, segment)'),
        variable("stream", "Stream", f'label_values(recsae_concept_state{{{OF},model_version=~"$model_version",segment=~"$segment"}}, stream)'),
    ]
    return dashboard("recsae-concept", "recsae: one concept", "Rate, ratio, evidence and state of one concept in one segment.", variables, [
        panel("table", "Names", "What the streams are called, and how far the name can be trusted.", "short",
              query(f'max by (model_version, stream, concept, verification) (recsae_concept_info{{{OF},model_version=~"$model_version",stream=~"$stream"}})', instant=True, fmt="table"),
              width=24, height=5, transformations=[{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}]),
        panel("timeseries", "Rate and expected rate", "Counted per unit of exposure in each window, and what the reference expects at that hour.", "percentunit",
              query(one("recsae_concept_rate"), "{{concept}} · {{segment}}"), query(one("recsae_concept_expected_rate"), "{{concept}} · {{segment}} expected"), minimum=0),
        panel("timeseries", "Ratio with its interval", "Counted over expected since the change point, with 95 % limits.", "short",
              query(one("recsae_concept_ratio"), "{{concept}} · {{segment}}"), query(one("recsae_concept_ratio_low"), "{{concept}} · {{segment}} low"), query(one("recsae_concept_ratio_high"), "{{concept}} · {{segment}} high"), minimum=0),
        panel("timeseries", "Evidence and threshold", "Natural logarithms. An alarm is evidence at the threshold.", "short",
              query(one("recsae_concept_evidence_log"), "{{concept}} · {{segment}}"), query(one("recsae_concept_threshold_log"), "{{concept}} · {{segment}} threshold"), minimum=0),
        panel("state-timeline", "State", "From ok to warn, alert and recovered.", "short", query(one("recsae_concept_state"), "{{concept}} · {{segment}}"), mappings=mapping(STATES)),
        panel("timeseries", "What could be seen", "Smallest ratio above 1 that 20 windows would show: with small segments only large shifts are found.", "short",
              query(one("recsae_concept_mde_ratio"), "{{concept}} · {{segment}}"), minimum=1),
    ])


def pipeline():
    rate = lambda metric, by="": f"sum{by} (rate({metric}{{{OF}}}[$__rate_interval]))"
    segment = lambda metric: f"max by (model_version, segment) ({metric}{{{SEGMENT}}})"
    variables = [
        variable("model_version", "Model", f"label_values(recsae_segment_state{{{OF}}}, model_version)"),
        variable("segment", "Segment", f'label_values(recsae_segment_state{{{OF},model_version=~"$model_version"}}, segment)'),
    ]
    return dashboard("recsae-pipeline", "recsae: input and pipeline", "Whether the input fits the SAE, and whether every record is counted, in time.", variables, [
        panel("timeseries", "Records", "Consumed = encoded + rejected, at all times. Replayed records are counted nowhere else.", "reqps",
              query(rate("recsae_records_consumed_total"), "consumed"), query(rate("recsae_records_encoded_total"), "encoded"), query(rate("recsae_records_replayed_total"), "replayed"), minimum=0),
        panel("timeseries", "Rejects", "Records not counted, by reason.", "reqps", query(rate("recsae_records_rejected_total", " by (reason)"), "{{reason}}"), minimum=0),
        panel("timeseries", "Lag", "Age of the oldest unread record.", "s", query(f"max by (instance) (recsae_consumer_lag_seconds{{{OF}}})", "{{instance}}"), minimum=0),
        panel("timeseries", "Lag by partition", "Records not read.", "short", query(f"max by (topic, partition) (recsae_consumer_lag_records{{{OF}}})", "{{topic}}[{{partition}}]"), minimum=0),
        panel("timeseries", "Partitions", "Assigned, and those whose position does not move although there is lag.", "short",
              query(f"sum(recsae_assigned_partitions{{{OF}}})", "assigned"), query(f"sum(recsae_consumer_stalled{{{OF}}})", "stalled"), minimum=0),
        panel("timeseries", "Rebalances", "Assignments and revocations per hour.", "short", query(f"sum(increase(recsae_rebalances_total{{{OF}}}[1h]))", "rebalances"), minimum=0),
        panel("timeseries", "CPU by stage", "CPU seconds per second by stage; all together are the CPU of the process.", "s", query(rate("recsae_stage_seconds_total", " by (stage)"), "{{stage}}"), minimum=0),
        panel("timeseries", "Checkpoint", "99th percentile of the time from a step being sent to its being stored, and failures per hour.", "s",
              query(f"histogram_quantile(0.99, sum by (le) (rate(recsae_checkpoint_seconds_bucket{{{OF}}}[$__rate_interval])))", "p99"), query(f"sum(increase(recsae_checkpoint_failures_total{{{OF}}}[1h]))", "failures"), minimum=0),
        panel("timeseries", "Unexplained variance", "FVU against the reference's variance: the first thing to rise when vectors of another layer or model arrive.", "percentunit", query(segment("recsae_input_fvu"), "{{segment}}"), minimum=0),
        panel("timeseries", "Cosine and norm ratio", "Of an embedding and its reconstruction.", "short", query(segment("recsae_input_cosine"), "{{segment}} cosine"), query(segment("recsae_input_norm_ratio"), "{{segment}} norm ratio")),
        panel("timeseries", "Active latents", "Mean per record (L0).", "short", query(segment("recsae_l0"), "{{segment}}"), minimum=0),
        panel("timeseries", "Dead latents", "Latents active in no record of the window.", "short", query(segment("recsae_dead_latents"), "{{segment}}"), minimum=0),
        panel("timeseries", "Windows", "Closed and judged, per hour.", "short",
              query(f"sum(increase(recsae_windows_closed_total{{{OF}}}[1h]))", "closed"), query(f"sum(increase(recsae_windows_judged_total{{{OF}}}[1h]))", "judged"), minimum=0),
        panel("timeseries", "Event time", "Newest record counted and end of the newest judged window.", "dateTimeAsIso",
              query(f"max(recsae_last_record_timestamp_seconds{{{OF}}}) * 1000", "last record"), query(f"max(recsae_window_end_timestamp_seconds{{{OF}}}) * 1000", "last judged window")),
        panel("timeseries", "Entities on several partitions", "Presence counting needs the topic keyed by the entity; above 1 % it is refused.", "percentunit", query(f"max(recsae_entities_split_ratio{{{OF}}})", "split"), minimum=0),
        panel("timeseries", "Dead letters", "Rejects acknowledged in the dead-letter topic, and those that could not be written.", "reqps",
              query(rate("recsae_dead_letters_total"), "written"), query(rate("recsae_dead_letter_failures_total"), "failed"), minimum=0),
        panel("timeseries", "Series", "Drift series exported, and those kept out by the cap.", "short", query(f"sum(recsae_series{{{OF}}})", "exported"), query(f"sum(increase(recsae_series_dropped_total{{{OF}}}[1h]))", "dropped"), minimum=0),
        panel("table", "Versions", "Program, SAE and reference in use.", "short", query(f"max by (instance, version, revision) (recsae_build_info{{{OF}}})", instant=True, fmt="table"),
              query(f"max by (model_version, fingerprint) (recsae_sae_info{{{OF}}})", instant=True, fmt="table")),
    ])


folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "dashboards"
for name, made in {"overview": overview(), "concept": concept(), "pipeline": pipeline()}.items():
    (folder / f"{name}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
