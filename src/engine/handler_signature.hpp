/*
 * handler_signature.hpp -- which functions can be handlers and back-off functions, and how they are stored. C++ region,
 * but where it says otherwise.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue {

/* Is this something that can be a handler? Throws Error 42P13 with the reason if not. */
void check_handler_signature(Oid function);
/* Does this handler take an array: several tasks at once? */
bool is_batch_handler(Oid function);
/* Or a back-off function? */
void check_backoff_signature(Oid function);
/* What to store for it: its schema-qualified signature. */
std::string handler_signature(Oid function);

/* Why it cannot be one; null if it can. C region. */
const char *handler_problem(Oid function);
const char *backoff_problem(Oid function);
/* What a batch handler takes an array of; InvalidOid of others. C region. */
Oid batch_element(const FormData_pg_proc *form);

} // namespace jobqueue
