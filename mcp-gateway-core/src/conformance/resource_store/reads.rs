//! Rule 7 and what goes without a number: indexes, order, bytes, tenants.

use super::*;

fn under(kind: Kind, name: &'static str, value: &str) -> Query {
    Query { term: Some(IndexTerm { name, value: value.into() }), ..Query::all(kind) }
}

/// Terms match by equality, several of one name each count, and names and kinds are apart.
pub async fn rule_7_terms_list_by_equality(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    commit(
        store,
        vec![
            put_under(key(THING, "c"), &[("owner", "ada"), ("group", "x"), ("group", "y")]),
            put_under(key(THING, "a"), &[("owner", "ada"), ("owner", "ada")]),
            put_under(key(THING, "b"), &[("owner", "ad")]),
            put_under(key(THING, "d"), &[("group", "ada")]),
            put_under(key(OTHER, "e"), &[("owner", "ada")]),
            put(key(THING, "f"), "none", When::Any),
        ],
    )
    .await;
    assert_eq!(ids(store, under(THING, "owner", "ada")).await, ["a", "c"], "rule 7: equality, in the order of ids");
    assert_eq!(ids(store, under(THING, "group", "x")).await, ["c"], "rule 7: multi-valued");
    assert_eq!(ids(store, under(THING, "group", "y")).await, ["c"], "rule 7: multi-valued");
    assert_eq!(ids(store, under(OTHER, "owner", "ada")).await, ["e"], "rule 7: another kind");
    assert!(ids(store, under(THING, "owner", "ADA")).await.is_empty(), "rule 7: case counts");
    assert!(ids(store, under(THING, "owner", "a%")).await.is_empty(), "rule 7: no patterns");
    let paged = Query { limit: 1, ..under(THING, "owner", "ada") };
    assert_eq!(ids(store, paged).await, ["a", "c"], "rule 7: paging through a term");
}

/// A put replaces all terms, a delete removes them.
pub async fn rule_7_terms_follow_the_record(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    commit(store, vec![put_under(key(THING, "a"), &[("owner", "ada"), ("state", "on")])]).await;
    commit(store, vec![put_under(key(THING, "a"), &[("owner", "bob")])]).await;
    assert!(ids(store, under(THING, "owner", "ada")).await.is_empty(), "rule 7: a replaced term");
    assert!(ids(store, under(THING, "state", "on")).await.is_empty(), "rule 7: a dropped term");
    assert_eq!(ids(store, under(THING, "owner", "bob")).await, ["a"], "rule 7: the new term");
    commit(store, vec![Write::Delete { key: key(THING, "a"), when: When::Any }]).await;
    assert!(ids(store, under(THING, "owner", "bob")).await.is_empty(), "rule 7: a term of a deleted record");
}

/// What must be unique is a record of its own, written in the same batch.
pub async fn rule_7_uniqueness_is_a_key(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let user = |id: &str, email: &str| {
        vec![
            put_under(key(THING, id), &[("email", email)]),
            put(key(OTHER, &format!("user-email/{email}")), id.to_owned(), When::Absent),
        ]
    };
    commit(store, user("one", "ada@example.com")).await;
    let error = store.commit(user("two", "ada@example.com")).await.expect_err("rule 7: the second user of an address");
    assert_eq!(error.kind(), StoreErrorKind::Conflict, "rule 7: {error}");
    assert_eq!(ids(store, Query::all(THING)).await, ["one"], "rule 7: the batch of the second user");
    // Equal terms alone are no conflict.
    commit(store, vec![put_under(key(THING, "three"), &[("email", "ada@example.com")])]).await;
    assert_eq!(
        ids(store, under(THING, "email", "ada@example.com")).await,
        ["one", "three"],
        "rule 7: terms may repeat"
    );
}

/// Values are bytes, ids are any text.
pub async fn records_come_back_byte_for_byte(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let all: Vec<u8> = (0..=255).collect();
    let ids = ["plain", "user-email/ada@example.com", "it's; \"quoted\" -- %_", "né 日本 🦀", "\u{0}nul\u{0}"];
    for id in ids {
        for value in [Vec::new(), all.clone(), vec![0; 10]] {
            let revision = commit(store, vec![put(key(THING, id), value.clone(), When::Any)]).await;
            let expected = Record { key: key(THING, id), revision, value: value.into() };
            assert_eq!(get(store, &key(THING, id)).await, Some(expected.clone()), "records: get of {id:?}");
            let listed = list_all(store, Query::all(THING)).await;
            assert!(listed.contains(&expected), "records: list of {id:?}");
            let mut feed = store.watch(&[THING], Revision(revision.0 - 1)).await.expect("watch succeeds");
            let commits = commits_until(&mut feed, revision, "records").await;
            let change = crate::contract::Change { key: expected.key, value: Some(expected.value) };
            assert_eq!(commits, [(revision, vec![change])], "records: watch of {id:?}");
        }
    }
    let answers = store.get(&[key(THING, "missing"), key(THING, "plain"), key(OTHER, "plain")]).await;
    let there: Vec<_> = answers.expect("get succeeds").iter().map(Option::is_some).collect();
    assert_eq!(there, [false, true, false], "records: get answers in the order of the keys");
    assert!(store.get(&[]).await.expect("get succeeds").is_empty(), "records: a get of nothing");
}

/// Lists are in the order of (tenant, id), compared byte by byte, however they are paged.
pub async fn lists_are_in_the_order_of_tenant_and_id(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let mut expected = Vec::new();
    for tenant in ["b", "a", "B", "ab"] {
        for id in ["10", "9", "a", "Z", "é", "a-b", "a/b", "\u{1f980}"] {
            let key = Key::new(TenantId::new(tenant), THING, id);
            commit(store, vec![put(key, "x", When::Any)]).await;
            expected.push((tenant.to_owned(), id.to_owned()));
        }
    }
    expected.sort();
    for limit in [1, 3, 8, 1000] {
        let seen: Vec<_> = list_all(store, Query { limit, ..Query::all(THING) })
            .await
            .into_iter()
            .map(|record| (record.key.tenant.as_str().to_owned(), record.key.id.into_string()))
            .collect();
        assert_eq!(seen, expected, "order: pages of {limit}");
    }
    // A page that ends exactly at the end has no next.
    let page = store.list(&Query { limit: 32, ..Query::all(THING) }).await.expect("list succeeds");
    assert_eq!((page.records.len(), page.next), (32, None), "order: the last page says so");
    // A cursor is a position, whether or not its record is still there.
    let after = Some(Cursor { tenant: TenantId::new("a"), id: "b-not-there".into() });
    let query = Query { tenant: Some(TenantId::new("a")), after, ..Query::all(THING) };
    assert_eq!(ids(store, query).await, ["é", "\u{1f980}"], "order: a cursor between two records");
}

/// Two tenants use the same ids and never see each other's records.
pub async fn tenants_with_equal_ids_do_not_meet(factory: &dyn Factory) {
    let bench = factory.make(Setup::default()).await;
    let store = &*bench.store;
    let (one, two) = (TenantId::new("one"), TenantId::new("two"));
    let at = |tenant: &TenantId, id: &str| Key::new(tenant.clone(), THING, id);
    let write = |tenant: &TenantId, id: &str, value: String| Write::Put {
        key: at(tenant, id),
        value: value.into(),
        index: vec![IndexTerm { name: "owner", value: "ada".into() }],
        ttl: None,
        when: When::Absent,
    };
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let mut model: BTreeMap<(TenantId, String), Bytes> = BTreeMap::new();
        for record in list_all(store, Query::all(THING)).await {
            commit(store, vec![Write::Delete { key: record.key, when: When::At(record.revision) }]).await;
        }
        for step in 0..20 {
            let tenant = if dice.roll(2) == 0 { &one } else { &two };
            let id = format!("id{}", dice.roll(4));
            let entry = (tenant.clone(), id.clone());
            if model.remove(&entry).is_some() {
                commit(store, vec![Write::Delete { key: at(tenant, &id), when: When::Any }]).await;
            } else {
                let value = format!("{tenant}/{step}");
                commit(store, vec![write(tenant, &id, value.clone())]).await;
                model.insert(entry, value.into());
            }
        }
        for tenant in [&one, &two] {
            let expected: Vec<_> = model.iter().filter(|((owner, _), _)| owner == tenant).collect();
            for term in [None, Some(IndexTerm { name: "owner", value: "ada".into() })] {
                for limit in [1, 100] {
                    let query =
                        Query { tenant: Some(tenant.clone()), kind: THING, term: term.clone(), after: None, limit };
                    let listed = list_all(store, query).await;
                    assert!(
                        listed.iter().all(|record| record.key.tenant == *tenant),
                        "tenants: {tenant} sees another's records (seed {seed})"
                    );
                    let seen: Vec<_> = listed.iter().map(|record| (&*record.key.id, &record.value)).collect();
                    let expected: Vec<_> = expected.iter().map(|((_, id), value)| (id.as_str(), *value)).collect();
                    assert_eq!(seen, expected, "tenants: the records of {tenant} (seed {seed})");
                }
            }
            for n in 0..4 {
                let id = format!("id{n}");
                let held = get(store, &at(tenant, &id)).await.map(|record| record.value);
                assert_eq!(held.as_ref(), model.get(&(tenant.clone(), id)), "tenants: get (seed {seed})");
            }
        }
    }
    let last = commit(store, vec![put(at(&one, "end"), "1", When::Any), put(at(&two, "end"), "2", When::Any)]).await;
    let mut feed = store.watch(&[THING], Revision(last.0 - 1)).await.expect("watch succeeds");
    let commits = commits_until(&mut feed, last, "tenants").await;
    let keys: Vec<_> = commits.iter().flat_map(|(_, changes)| changes).map(|change| change.key.clone()).collect();
    assert_eq!(keys, [at(&one, "end"), at(&two, "end")], "tenants: the feed names them");
    // A cursor of one tenant does not lead into the other.
    let after = Some(Cursor { tenant: one.clone(), id: "zzz".into() });
    let query = Query { tenant: Some(one.clone()), after, ..Query::all(THING) };
    assert!(ids(store, query).await.is_empty(), "tenants: a cursor led into another tenant");
}
