//! What the benches make of their times.

#[path = "../benches/common/mod.rs"]
mod common;

use common::{Dice, Ratio, Record, from_json, median, quantile, to_json};

#[test]
fn records_come_back_as_they_were_written() {
    let odd = "a \"quoted\" \\ text, {with} [all]: of it, µs";
    let records = [
        Record::new("a/b").text("peer", odd).number("median_us", 12.345, 1).number("count", 500.0, 0),
        Record::new("none").number("nothing", f64::NAN, 3).text("empty", ""),
        Record::new("low").number("value", -0.5, 2),
    ];
    let text = to_json(&records);
    assert!(!text.contains("NaN"), "{text}");
    let Ok(read) = from_json(&text) else { panic!("it cannot be read: {text}") };
    assert_eq!(to_json(&read), text);
    assert_eq!(read[0].get_text("peer"), odd);
    assert_eq!((read[0].get("median_us"), read[0].get("count")), (Some(12.3), Some(500.0)));
    assert_eq!((read[1].get("nothing"), read[2].get("value")), (None, Some(-0.5)));
    assert!(from_json("[\n  {\"name\": \"cut\n]\n").is_err());
    assert!(from_json("[\n  {\"name\": \"no end\"\n]\n").is_err());
}

#[test]
fn quantiles() {
    let values = [5.0, 1.0, 4.0, 2.0, 3.0];
    assert_eq!((median(&values), quantile(&values, 0.0), quantile(&values, 1.0)), (3.0, 1.0, 5.0));
    assert!(median(&[]).is_nan());
}

#[test]
fn an_interval_holds_the_ratio() {
    let mut dice = Dice::new();
    let mut noise = || 1.0 + f64::from(u32::try_from(dice.below(1000)).unwrap()) / 1000.0;
    let below: Vec<f64> = (0..200).map(|_| noise()).collect();
    let above: Vec<f64> = (0..200).map(|_| 3.0 * noise()).collect();
    let ratio = Ratio::of(&above, &below);
    assert!(ratio.low <= ratio.value && ratio.value <= ratio.high, "{} {} {}", ratio.low, ratio.value, ratio.high);
    assert!(ratio.low < 3.0 && 3.0 < ratio.high && ratio.high - ratio.low < 0.6, "{} {}", ratio.low, ratio.high);
    // What is the same in each round has no spread, however the rounds differ.
    let same = Ratio::of(&below, &below);
    assert_eq!((same.low, same.value, same.high), (1.0, 1.0, 1.0));
}

#[test]
fn a_shuffle_loses_nothing() {
    let mut all: Vec<_> = (0..100).collect();
    Dice::new().shuffle(&mut all);
    assert!(!all.is_sorted());
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
}
