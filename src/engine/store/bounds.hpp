/*
 * bounds.hpp -- how long the texts that users give may be, in bytes. The checks on the tables say the same: those of
 * jobqueue.tasks are in the library (api/check_task.cpp), the others in src/sql. test/meta/bounds.t compares, and
 * sql/bounds.sql finds a column that has none. Only payload (jobqueue.limit_role has a bound for it) and result have no
 * bound: nothing reads them in passing.
 *
 * C++ region, except the noexcept functions.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue::bounds {

/* Names, and values that are read in passing: a longer one is refused. */
inline constexpr size_t queue = 63;
inline constexpr size_t type = 255;
inline constexpr size_t key = 1024; /* unique_key, group_key: they go into indexes */
inline constexpr size_t claimed_by = 255;
inline constexpr size_t metadata = 65536; /* as jsonb is stored, before it is compressed */
inline constexpr size_t graph_name = 255;
inline constexpr size_t schedule_name = 255;
inline constexpr size_t cron = 1000;
inline constexpr size_t time_zone = 63;
inline constexpr size_t command = 1000000;
inline constexpr size_t schedule_payload = 1048576; /* measured like metadata */
inline constexpr size_t signature = 1024;
inline constexpr size_t sqlstates = 1000; /* how many */

/* A text that records an event is cut, with a mark, because to refuse it would lose the event. */
inline constexpr size_t error = 8192;
inline constexpr size_t reason = 1024;
inline constexpr size_t progress_message = 199;
inline constexpr size_t failure_detail = 2000;

/* Only reached by hand: the engine writes less. */
inline constexpr size_t failures = 1048576;
inline constexpr size_t sqlstates_size = 16384;
inline constexpr size_t graph_names_size = 33554432;
inline constexpr size_t sqlstate = 5;

/* A waiting task has been tried at most so many times, so that there is room to count the attempts that follow. */
inline constexpr int32 attempts = 2000000000;

inline constexpr const char *mark = "...";

/* At most so many bytes of the text, including the mark. */
std::string cut(std::string_view text, size_t most);

/* The size of a text or jsonb, without fetching or unpacking it. */
size_t size_of(Datum value) noexcept;

/* Throws 22023 if the size is above "most". "what" is for the message. */
void check(std::string_view what, size_t size, size_t most);

} // namespace jobqueue::bounds
