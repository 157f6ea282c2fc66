/*
 * transaction_notes.hpp -- what the current transaction does that others want to know. It is kept in memory of its own
 * backend; when the transaction commits, it goes into the ring (ring.hpp) and to other places in shared memory, and
 * sleepers are woken.
 *
 * C region: notes may ereport (the first one registers the callbacks); what follows at commit does not. Where the
 * library is not preloaded, or with notify_mode immediate, new tasks are notified in the transaction itself.
 */
#pragma once

#include "shared/id_ranges.hpp"
#include "shared/state.hpp"

namespace jobqueue {

/* "group" is empty for a task that has none. */
void note_task(std::string_view queue, int16 priority, int64 id, std::string_view type, std::string_view group);
/* Plain SQL is about to add tasks, with ids from this one on. */
void note_statement(int64 from);
/* Tasks were claimed: they are there again if the transaction aborts. */
void note_claimed(std::string_view queue, int16 priority, IdRange ids, bool grouped);
/* A task that was locked, and not claimed after all, can be had again when the transaction commits. */
void note_returned(std::string_view queue, int16 priority, int64 id, std::string_view group);
/* Something is due at this time. */
void note_due(TimestampTz at);
/* A task ended: whoever waits for it wants to know. */
void note_finished(int64 id);
/* Tasks are added that wait for these: call it before their rows are written. */
void note_parents(std::span<const int64> ids);
/* May there be tasks that wait for one of these? noexcept. */
bool may_be_parents(IdRange ids) noexcept;
/* A task was cancelled while it may be running in a worker. */
void note_cancelled(int64 id);
/* Rows were finished by hand; the scheduler archives them. */
void note_archive();
/* Handlers, queues or the incarnation changed. */
void note_configuration();
/* Databases came or changed: the launcher looks at pg_database. */
void note_rescan();
/* Something was committed by others in an unknown way (COMMIT PREPARED): look at everything. */
void note_everything();
/* This database is held free of our processes until the transaction ends, either way. */
void note_let_go(DatabaseSlot *slot);

/*
 * What the current transaction has noted and not yet announced: its own claims must see its own tasks. noexcept.
 */
/* Ids in a lane of tasks without group. */
IdRange own_ids(uint64 queue_hash, int16 priority) noexcept;
/* Was a subtransaction rolled back that had claimed? */
bool own_aborted() noexcept;
/* Has it given tasks of groups back? */
bool own_returned_groups() noexcept;
/* Has it changed handlers, queues or the incarnation? */
bool own_configuration() noexcept;
/* Did it add tasks to unknown queues? */
bool own_statements() noexcept;
void visit_own_lanes(void (*visit)(void *arg, const char *queue, int16 priority, bool grouped), void *arg);

} // namespace jobqueue
