/*
 * adding.cpp -- see adding.hpp. C++ region.
 */
#include "engine/adding.hpp"

#include "shared/transaction_notes.hpp"

namespace jobqueue {

void note_added(const store::NewTask &task, const store::Added &added) {
	const std::string_view group = task.group_key ? std::string_view(*task.group_key) : std::string_view();
	guard([&task, &added, group] {
		if (added.scheduled)
			note_due(*task.run_at);
		else if (!added.blocked)
			note_task(added.queue, task.priority, added.id, task.type, group);
	});
}

} // namespace jobqueue
