use serde_json::Value;

use crate::wire::list::Lists;

const LISTS: [(&str, &str); 4] =
    [("tools", "name"), ("prompts", "name"), ("resources", "uri"), ("resourceTemplates", "uriTemplate")];

/// What is left of a response is what `serde_json` finds there, less every second item, and nothing else.
pub fn list(data: &[u8]) {
    let _ = Lists::of_listen(data);
    let Ok(lists) = Lists::of_response(data) else { return };
    if super::confuses_serde(data) {
        return;
    }
    // It refuses numbers that no `f64` is near to.
    let Ok(mut expected) = serde_json::from_slice::<Value>(data) else { return };
    let mut items = Vec::new();
    for (list, name) in LISTS {
        for item in expected["result"][list].as_array().into_iter().flatten() {
            items.push((list, item[name].as_str().map(str::to_owned)));
        }
    }
    let mut found: Vec<_> =
        lists.items.iter().map(|item| (LISTS[item.kind as usize].0, item.name.as_deref().map(str::to_owned))).collect();
    let order = |list: &str| LISTS.iter().position(|(one, _)| *one == list);
    found.sort_by_key(|(list, _)| order(list));
    assert_eq!(found, items);
    let mut number = 0;
    let mut keep = |_: &_| {
        number += 1;
        number % 2 == 0
    };
    let written = lists.write(data, &mut keep, false).unwrap_or_else(|| data.to_owned());
    let mut number = 0;
    if let Some(result) = expected.get_mut("result").and_then(Value::as_object_mut) {
        // In the order of the text, which is that of the reader's items.
        let mut order: Vec<&str> = lists.items.iter().map(|item| LISTS[item.kind as usize].0).collect();
        order.dedup();
        for list in order {
            if let Some(items) = result.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|_| {
                    number += 1;
                    number % 2 == 0
                });
            }
        }
        if result.get("cacheScope").and_then(Value::as_str) == Some("public") {
            result.insert("cacheScope".to_owned(), "private".into());
        }
    }
    let written: Value = serde_json::from_slice(&written).expect("what is written is JSON");
    assert_eq!(written, expected);
}
