//! Tests of the page: whole, self-contained, escaped, and honest about what is missing.

use super::*;
use crate::report::sample;

/// Panics unless tags are balanced; knows the void elements that the page uses.
fn check_well_formed(page: &str) {
    let mut open = Vec::new();
    let mut rest = page.strip_prefix("<!doctype html>").expect("a doctype");
    while let Some((_, tail)) = rest.split_once('<') {
        let (tag, tail) = tail.split_once('>').expect("a tag that ends");
        rest = tail;
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> closes what is not open");
        } else if !tag.ends_with('/') && name != "meta" {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn a_full_page_is_well_formed_and_self_contained() {
    let page = render(&sample::full(), &sample::histogram()).unwrap();
    check_well_formed(&page);
    assert_eq!(page.matches("<svg ").count(), 4);
    for foreign in ["<script", "<link", "@import", "url(", "src=", "href="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
    for part in ["prefers-color-scheme: dark", "width=device-width", "6.0 s killed node 1, a leader", "99.9999%"] {
        assert!(page.contains(part), "{part} is missing");
    }
    if let Some(file) = std::env::var_os("SYNOD_BENCH_SAMPLE_PAGE") {
        std::fs::write(file, page).unwrap();
    }
}

#[test]
fn a_page_without_measurements_has_no_plots_and_no_numbers() {
    let page = render(&sample::empty(), &LatencyHistogram::new()).unwrap();
    check_well_formed(&page);
    assert_eq!(page.matches("<svg ").count(), 0);
    assert_eq!(page.matches("not measured").count(), 4);
    assert!(page.contains("<b>-</b>") && !page.contains("NaN") && !page.contains("inf"));
}

#[test]
fn text_from_outside_is_escaped() {
    let mut report = sample::full();
    report.command = "<script>alert('x')</script> & \"y\"".into();
    report.events[0].what = "<b>".into();
    report.verification.clean = Some(false);
    report.verification.violations = vec!["</li><img src=x>".into()];
    report.machine.kernel = Some("<kernel>".into());
    let page = render(&report, &sample::histogram()).unwrap();
    check_well_formed(&page);
    for raw in ["<script", "<img", "<kernel", "<b>;"] {
        assert!(!page.contains(raw), "{raw}");
    }
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;y&quot;"));
    assert!(page.contains("class=\"verdict bad\""));
}

#[test]
fn colours_of_the_plots_are_known_to_the_style_sheet() {
    let page = render(&sample::full(), &sample::histogram()).unwrap();
    let plots = page.split_once("<div class=\"plots\">").unwrap().1;
    for attribute in ["stroke", "fill"] {
        for (_, tail) in plots.match_indices(&format!("{attribute}=\"#")).map(|(at, _)| plots.split_at(at)) {
            let value = tail.split('"').nth(1).unwrap();
            let rule = format!("svg [{attribute}=\"{value}\"]");
            let is_text = attribute == "fill" && value == "#1C2330";
            assert!(is_text || STYLE.contains(&rule), "no rule for {attribute} {value}");
        }
    }
}

#[test]
fn odd_runs_are_drawn_too() {
    let mut report = sample::full();
    let mut lone = LatencyHistogram::new();
    lone.record_n(0, 1);
    report.timeline.truncate(1);
    report.phases_us = crate::report::PhasesUs::default();
    report.phases_us.wal.mean = Some(0.0);
    check_well_formed(&render(&report, &lone).unwrap());
    for second in &mut report.timeline {
        (second.commits, second.p50_us, second.p99_us) = (0, None, None);
    }
    let mut slow = LatencyHistogram::new();
    slow.record_n(u64::MAX, u64::MAX);
    check_well_formed(&render(&report, &slow).unwrap());
}
