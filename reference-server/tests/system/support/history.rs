//! What Postgres says of who led and who wrote: a record of every write that no process of ours keeps.

use std::collections::BTreeMap;

use mcp_gateway_test_postgres::Cluster;

/// Notes writes of leases and of what leaders write, with the name of the connection (`application_name`).
const NOTE: &str = "
    CREATE TABLE public.history (
        n bigserial PRIMARY KEY, at bigint, who text, kind text, id text, deleted boolean, ends bigint, value text
    );
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        row mcp_gateway.record := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    BEGIN
        IF row.kind IN ('lease', 'lease-term', 'entry') THEN
            INSERT INTO public.history (at, who, kind, id, deleted, ends, value)
            VALUES (mcp_gateway.now_us(), current_setting('application_name'), row.kind, row.id, TG_OP = 'DELETE',
                row.expires_at, CASE WHEN row.kind <> 'entry' THEN convert_from(row.value, 'UTF8') END);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON mcp_gateway.record
    FOR EACH ROW EXECUTE FUNCTION public.note();";

/// The history of one database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History<'a> {
    cluster: &'a Cluster,
    database: &'a str,
}

/// A time in which a process had a lease, in microseconds since 1970 on the database's clock.
#[derive(Debug, Clone)]
pub(crate) struct Led {
    pub(crate) who: String,
    pub(crate) lease: String,
    pub(crate) from: i64,
    /// It ran out then, or was given back.
    pub(crate) until: i64,
}

impl<'a> History<'a> {
    /// Begins it, in a migrated database of this URL.
    pub(crate) fn begin(cluster: &'a Cluster, url: &'a str) -> Self {
        let history = Self::of(cluster, url);
        cluster.sql(history.database, NOTE);
        history
    }

    /// One that has begun.
    pub(crate) fn of(cluster: &'a Cluster, url: &'a str) -> Self {
        Self { cluster, database: url.rsplit('/').next().unwrap() }
    }

    /// Who has a lease now.
    pub(crate) fn leader(&self, lease: &str) -> Option<String> {
        let now = format!(
            "SELECT h.who FROM mcp_gateway.record r JOIN public.history h ON h.kind = r.kind AND h.id = r.id
             WHERE r.kind = 'lease' AND r.id = '{lease}' AND r.expires_at > mcp_gateway.now_us() ORDER BY h.n DESC LIMIT 1"
        );
        Some(self.cluster.sql(self.database, &now)).filter(|who| !who.is_empty())
    }

    /// Every time in which somebody led, in order.
    ///
    /// # Panics
    /// When two led at a time, or somebody wrote what only a leader may write.
    pub(crate) fn check(&self) -> Vec<Led> {
        let all =
            "SELECT at, who, kind, id, deleted, coalesce(ends, 0), coalesce(value, '') FROM public.history ORDER BY n";
        let rows = self.cluster.sql(self.database, all);
        let mut terms: BTreeMap<String, String> = BTreeMap::new();
        // By lease: whose it is, by the number of the process's life.
        let mut held: BTreeMap<String, (String, Led)> = BTreeMap::new();
        let mut past = Vec::new();
        for row in rows.lines() {
            let fields: Vec<&str> = row.split('|').collect();
            let [at, who, kind, id, deleted, ends, life] = fields[..] else { panic!("{row}") };
            let (at, ends): (i64, i64) = (at.parse().unwrap(), ends.parse().unwrap());
            match (kind, deleted) {
                ("lease-term", _) => {
                    terms.insert(id.to_owned(), who.to_owned());
                }
                ("entry", _) => {
                    let leader = terms.get("catalog").map(String::as_str);
                    assert_eq!(leader, Some(who), "who does not lead wrote an entry: {row}");
                }
                (_, "t") => {
                    let Some((of, mut led)) = held.remove(id) else { continue };
                    assert!(of == life && (who == led.who || at >= led.until), "ended by another one: {row}, {led:?}");
                    led.until = led.until.min(at);
                    past.push(led);
                }
                _ => match held.get_mut(id) {
                    Some((of, led)) if of == life => led.until = ends,
                    other => {
                        if let Some((_, led)) = other {
                            assert!(at >= led.until, "two lead at a time: {row}, {led:?}");
                            past.push(led.clone());
                        }
                        let led = Led { who: who.to_owned(), lease: id.to_owned(), from: at, until: ends };
                        held.insert(id.to_owned(), (life.to_owned(), led));
                    }
                },
            }
        }
        past.extend(held.into_values().map(|(_, led)| led));
        past.sort_by_key(|led| led.from);
        past
    }
}
