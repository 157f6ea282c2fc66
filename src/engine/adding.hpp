/*
 * adding.hpp -- what follows when a task was added. C++ region.
 */
#pragma once

#include "engine/store/adding.hpp"

namespace jobqueue {

/* Has the commit announce the task: that it is there, or when it will be due. */
void note_added(const store::NewTask &task, const store::Added &added);

} // namespace jobqueue
