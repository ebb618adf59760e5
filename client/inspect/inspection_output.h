// An inspection as tables for people or as one JSON object.
#pragma once

#include <iosfwd>
#include <nlohmann/json_fwd.hpp>

#include "client/inspect/inspection.h"

namespace kvcrush::inspect {

void print_inspection(const Inspection& inspection, const Question& question, std::ostream& out);
nlohmann::json to_json(const Inspection& inspection, const Question& question);

}  // namespace kvcrush::inspect
