//! Typed access to records.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::TenantId;
use crate::contract::{
    Cursor, IndexTerm, Key, Kind, Query, Record, ResourceStore, Revision, StoreError, StoreErrorKind, When, Write,
};

/// A type that is kept in a [`ResourceStore`], as JSON.
pub trait Resource: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its kind.
    const KIND: Kind;
    /// The names of the indexes that [`terms`](Self::terms) may use.
    const INDEXES: &'static [&'static str];
    /// The fields, as JSON pointers, that hold secrets and are encrypted above the store.
    const SEALED: &'static [&'static str];

    /// The terms under which it can be listed.
    fn terms(&self) -> Vec<IndexTerm> {
        Vec::new()
    }
}

/// Encrypts single fields of records, above every store.
///
/// The ciphertext is bound to the record's tenant, kind and id and to the field: a moved one does not open.
pub trait FieldSealer: Send + Sync + 'static {
    /// Encrypts a field's value.
    ///
    /// # Errors
    /// [`StoreErrorKind::Unavailable`] when the key cannot be had now.
    fn seal(&self, key: &Key, field: &str, plain: &str) -> Result<String, StoreError>;

    /// Decrypts it.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] when it does not belong here, [`StoreErrorKind::Unavailable`] when the key that made
    /// it is not known: it may be on its way here.
    fn open(&self, key: &Key, field: &str, sealed: &str) -> Result<String, StoreError>;
}

/// A value with the revision that wrote it.
#[derive(Debug, Clone)]
pub struct Stored<T> {
    /// Its id.
    pub id: Box<str>,
    /// What [`When::At`] compares; the ETag of the admin API.
    pub revision: Revision,
    /// The value.
    pub value: T,
}

impl<T: Resource> Stored<T> {
    /// Reads a record, opening its sealed fields.
    ///
    /// # Errors
    /// [`StoreErrorKind::Corrupt`] when it is not a `T` or a field does not open.
    pub fn decode(record: &Record, sealer: &dyn FieldSealer) -> Result<Self, StoreError> {
        let corrupt = |error| StoreError::new(StoreErrorKind::Corrupt, "decode").because(error);
        let value = if T::SEALED.is_empty() {
            serde_json::from_slice(&record.value).map_err(corrupt)?
        } else {
            let mut json: Value = serde_json::from_slice(&record.value).map_err(corrupt)?;
            walk_sealed::<T>(&mut json, &mut |field, text| sealer.open(&record.key, field, text))?;
            serde_json::from_value(json).map_err(corrupt)?
        };
        Ok(Self { id: record.key.id.clone(), revision: record.revision, value })
    }
}

/// Calls `change` for each text at a pointer of `T::SEALED`; `*` stands for every element of an array.
fn walk_sealed<T: Resource>(
    json: &mut Value,
    change: &mut dyn FnMut(&str, &str) -> Result<String, StoreError>,
) -> Result<(), StoreError> {
    fn walk(
        at: &mut Value,
        rest: &str,
        field: &str,
        change: &mut dyn FnMut(&str, &str) -> Result<String, StoreError>,
    ) -> Result<(), StoreError> {
        let Some(rest) = rest.strip_prefix('/') else {
            if let Value::String(text) = at {
                *text = change(field, text)?;
            }
            return Ok(());
        };
        let (step, rest) = rest.find('/').map_or((rest, ""), |end| rest.split_at(end));
        match at {
            Value::Array(items) if step == "*" => items.iter_mut().try_for_each(|item| walk(item, rest, field, change)),
            Value::Object(members) => members.get_mut(step).map_or(Ok(()), |next| walk(next, rest, field, change)),
            _ => Ok(()),
        }
    }
    T::SEALED.iter().try_for_each(|field| walk(json, field, field, change))
}

/// Typed access to one kind of record in one tenant.
#[derive(Clone)]
pub struct Resources<T> {
    store: Arc<dyn ResourceStore>,
    sealer: Arc<dyn FieldSealer>,
    tenant: TenantId,
    kind: PhantomData<fn() -> T>,
}

impl<T> std::fmt::Debug for Resources<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resources").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl<T> Resources<T> {
    /// Access to records of another kind, in the same store and tenant.
    #[must_use]
    pub fn of_kind<U: Resource>(&self) -> Resources<U> {
        Resources::new(Arc::clone(&self.store), Arc::clone(&self.sealer), self.tenant.clone())
    }
}

impl<T: Resource> Resources<T> {
    /// Access to `T`s of this tenant.
    pub fn new(store: Arc<dyn ResourceStore>, sealer: Arc<dyn FieldSealer>, tenant: TenantId) -> Self {
        Self { store, sealer, tenant, kind: PhantomData }
    }

    /// The key of an id.
    pub fn key(&self, id: &str) -> Key {
        Key::new(self.tenant.clone(), T::KIND, id)
    }

    /// Reads one.
    ///
    /// # Errors
    /// As [`ResourceStore::get`]; a value that is not a `T` is [`StoreErrorKind::Corrupt`].
    pub async fn get(&self, id: &str) -> Result<Option<Stored<T>>, StoreError> {
        let found = self.store.get(&[self.key(id)]).await?;
        found.into_iter().next().flatten().map(|record| Stored::decode(&record, &*self.sealer)).transpose()
    }

    /// The store underneath, for batches over several kinds.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ResourceStore> {
        &self.store
    }

    /// Reads several, in the order of `ids`; at most [`StoreLimits::PAGE`](crate::contract::StoreLimits::PAGE).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_many<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<Vec<Option<Stored<T>>>, StoreError> {
        let keys: Vec<Key> = ids.into_iter().map(|id| self.key(id)).collect();
        let found = self.store.get(&keys).await?;
        found
            .into_iter()
            .map(|record| record.map(|record| Stored::decode(&record, &*self.sealer)).transpose())
            .collect()
    }

    /// Reads a page, in the order of ids.
    ///
    /// # Errors
    /// As [`ResourceStore::list`].
    pub async fn list(
        &self,
        term: Option<IndexTerm>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Stored<T>>, Option<Box<str>>), StoreError> {
        let after = after.map(|id| Cursor { tenant: self.tenant.clone(), id: id.into() });
        let query = Query { tenant: Some(self.tenant.clone()), kind: T::KIND, term, after, limit };
        let page = self.store.list(&query).await?;
        let values =
            page.records.iter().map(|record| Stored::decode(record, &*self.sealer)).collect::<Result<_, _>>()?;
        Ok((values, page.next.map(|cursor| cursor.id)))
    }

    /// A write that puts a value.
    ///
    /// # Errors
    /// [`StoreErrorKind::Invalid`] when it cannot be serialized.
    pub fn put(&self, id: &str, value: &T, ttl: Option<Duration>, when: When) -> Result<Write, StoreError> {
        let invalid = |error| StoreError::new(StoreErrorKind::Invalid, "put").because(error);
        let key = self.key(id);
        let json = if T::SEALED.is_empty() {
            serde_json::to_vec(value).map_err(invalid)?
        } else {
            let mut json = serde_json::to_value(value).map_err(invalid)?;
            walk_sealed::<T>(&mut json, &mut |field, text| self.sealer.seal(&key, field, text))?;
            serde_json::to_vec(&json).map_err(invalid)?
        };
        Ok(Write::Put { key, value: Bytes::from(json), index: value.terms(), ttl, when })
    }

    /// Puts one value.
    ///
    /// # Errors
    /// As [`ResourceStore::commit`].
    pub async fn save(&self, id: &str, value: &T, when: When) -> Result<Revision, StoreError> {
        self.store.commit(vec![self.put(id, value, None, when)?]).await
    }

    /// Deletes one value.
    ///
    /// # Errors
    /// As [`ResourceStore::commit`].
    pub async fn delete(&self, id: &str, when: When) -> Result<Revision, StoreError> {
        self.store.commit(vec![Write::Delete { key: self.key(id), when }]).await
    }
}
