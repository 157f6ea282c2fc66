/*
 * transaction_notes.hpp -- what the current transaction does that other processes must learn. Notes are kept in the
 * backend's own memory. When the transaction commits, they go into the ring (ring.hpp) and to other places in shared
 * memory, and sleeping processes are woken. When it aborts, the tasks that it had claimed are announced again.
 *
 * C region: notes may ereport (the first one registers the callbacks); what follows at commit does not. If the library
 * is not preloaded, or notify_mode is immediate, the transaction itself sends NOTIFY for new tasks.
 */
#pragma once

#include "shared/id_ranges.hpp"
#include "shared/state.hpp"

namespace jobqueue {

/* "group" is empty for a task that has none. */
void note_task(std::string_view queue, int16 priority, int64 id, std::string_view type, std::string_view group);
/* Plain SQL is about to add tasks, with ids from this one on. */
void note_statement(int64 from);
/* Tasks were claimed: they can be claimed again if the transaction aborts. */
void note_claimed(std::string_view queue, int16 priority, IdRange ids, bool grouped);
/*
 * After the commit this lane must be looked at again: a task was locked and not claimed after all, or the first task of
 * a group may have changed.
 */
void note_returned(std::string_view queue, int16 priority, int64 id, std::string_view group);
/* Something is due at this time; all_due: something may be due, at whatever time. */
inline constexpr TimestampTz all_due = 1;
void note_due(TimestampTz at);
/* A task ended: sessions and tasks may wait for it. */
void note_finished(int64 id);
/* Tasks that wait for these are about to be added: called before their rows are written. */
void note_parents(std::span<const int64> ids);
/* Can there be tasks that wait for one of these? noexcept. */
bool may_be_parents(IdRange ids) noexcept;
/* A task was cancelled while it may be running in a worker. */
void note_cancelled(int64 id);
/* Tasks were finished by hand; the scheduler archives them. */
void note_archive();
/* Handlers, queues or the incarnation changed. */
void note_configuration();
/* Databases came or changed: the launcher looks at pg_database. */
void note_rescan();
/* A prepared transaction has ended, and it is not known what it did: everything must be looked at. */
void note_everything();
/* This database is kept free of our processes until the transaction ends, by commit or abort. */
void note_let_go(DatabaseSlot *slot);

/*
 * What the current transaction has noted and not yet announced: its own claims must see its own tasks. noexcept.
 */
/* The ids of tasks without group in this lane. */
IdRange own_ids(uint64 queue_hash, int16 priority) noexcept;
/* Was a subtransaction that had claimed rolled back? */
bool own_aborted() noexcept;
/* Has the transaction given back tasks of groups? */
bool own_returned_groups() noexcept;
/* Has the transaction changed handlers, queues or the incarnation? */
bool own_configuration() noexcept;
/* Has the transaction added tasks to unknown queues? */
bool own_statements() noexcept;
void visit_own_lanes(void (*visit)(void *arg, const char *queue, int16 priority, bool grouped), void *arg);

} // namespace jobqueue
