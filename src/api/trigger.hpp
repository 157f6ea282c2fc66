/*
 * trigger.hpp -- what trigger functions have in common. C++ region.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue {

/* Throws 39P01 where the function is not called as a trigger. */
inline TriggerData *trigger_data(FunctionCallInfo fcinfo) {
	if (!CALLED_AS_TRIGGER(fcinfo))
		throw Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "this function can only be called as a trigger");
	return reinterpret_cast<TriggerData *>(fcinfo->context);
}

} // namespace jobqueue
