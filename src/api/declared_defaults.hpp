/*
 * declared_defaults.hpp -- the defaults that the declaration of a function has for its arguments. C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* The default of an input argument, by position from 0, in the current memory context; null if it has none. */
NullableDatum declared_default(Oid function, int place);

} // namespace jobqueue
