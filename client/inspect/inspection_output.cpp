#include "client/inspect/inspection_output.h"

#include <ostream>

#include "client/cli/table.h"

namespace kvcrush::inspect {
namespace {

using cli::fixed;
using cli::mib;
using cli::Table;
using cli::with_thousands;
using nlohmann::json;

void print_list(const char* title, const std::vector<std::string>& lines, std::ostream& out) {
  for (const std::string& line : lines) out << title << line << '\n';
}

void print_types(const std::vector<TensorType>& types, std::ostream& out) {
  Table table({"tensors", "number", "elements", "MiB"});
  for (const TensorType& type : types)
    table.add_row({type.name, with_thousands(type.num_tensors),
                   with_thousands(static_cast<std::int64_t>(type.num_elements)),
                   type.supported ? mib(static_cast<std::int64_t>(type.num_bytes)) : "not supported"});
  table.print(out);
  out << '\n';
}

std::string budget_text(const Question& question) {
  if (question.budget_tokens) return with_thousands(*question.budget_tokens) + " tokens a layer";
  return fixed(*question.budget_fraction * 100, 1) + "% of the prompt";
}

std::string fit_text(const Fit& fit) {
  if (!fit.full) return "-";
  return with_thousands(*fit.full) + " / " + with_thousands(*fit.pruned);
}

void print_kv(const Inspection& inspection, const Question& question, std::ostream& out) {
  std::vector<std::string> header = {"KV cache", "bytes/token", "blocks"};
  for (const int length : question.lengths) header.push_back(with_thousands(length) + " tokens");
  Table table(std::move(header));
  bool beyond = false;
  for (const KvFigures& figures : inspection.kv) {
    std::vector<std::string> row = {figures.dtype, fixed(figures.bytes_per_token, 0),
                                    with_thousands(figures.num_blocks)};
    for (const Fit& fit : figures.fits) {
      row.push_back(fit_text(fit));
      beyond = beyond || !fit.full;
    }
    table.add_row(std::move(row));
  }
  table.print(out);
  out << "sequences of so many tokens that fit " << mib(static_cast<std::int64_t>(question.kv_memory_bytes))
      << " MiB at a time: full cache / pruned to " << budget_text(question)
      << (beyond ? "; -: longer than the context" : "") << '\n';
}

json fit_json(const Fit& fit) {
  json object = {{"tokens", fit.num_tokens}, {"full", nullptr}, {"pruned", nullptr}};
  if (fit.full) object["full"] = *fit.full;
  if (fit.pruned) object["pruned"] = *fit.pruned;
  return object;
}

}  // namespace

void print_inspection(const Inspection& inspection, const Question& question, std::ostream& out) {
  if (!inspection.path.empty()) out << inspection.path << " (" << inspection.format << ")\n\n";
  std::size_t width = 0;
  for (const Fact& fact : inspection.facts) width = std::max(width, fact.label.size());
  for (const Fact& fact : inspection.facts)
    out << fact.label << std::string(width + 2 - fact.label.size(), ' ') << fact.text << '\n';
  if (!inspection.facts.empty()) out << '\n';
  if (!inspection.types.empty()) print_types(inspection.types, out);
  if (!inspection.kv.empty()) {
    print_kv(inspection, question, out);
    out << '\n';
  }
  print_list("note: ", inspection.notes, out);
  print_list("problem: ", inspection.problems, out);
  out << (inspection.problems.empty() ? "The server can run this model.\n"
                                      : "The server cannot run this model.\n");
}

json to_json(const Inspection& inspection, const Question& question) {
  json object = {{"path", inspection.path},
                 {"format", inspection.format},
                 {"runnable", inspection.problems.empty()},
                 {"problems", inspection.problems},
                 {"notes", inspection.notes},
                 {"model", json::object()},
                 {"tensors", json::array()}};
  for (const Fact& fact : inspection.facts) object["model"][fact.key] = fact.value;
  for (const TensorType& type : inspection.types)
    object["tensors"].push_back({{"type", type.name},
                                 {"supported", type.supported},
                                 {"number", type.num_tensors},
                                 {"elements", type.num_elements},
                                 {"bytes", type.num_bytes}});
  json& kv = object["kv_cache"] = {{"memory_bytes", question.kv_memory_bytes}, {"dtypes", json::array()}};
  if (question.budget_tokens) kv["budget_tokens"] = *question.budget_tokens;
  if (question.budget_fraction) kv["budget_fraction"] = *question.budget_fraction;
  for (const KvFigures& figures : inspection.kv) {
    json row = {{"dtype", figures.dtype},
                {"bytes_per_token", figures.bytes_per_token},
                {"tokens_per_block", figures.tokens_per_block},
                {"block_bytes", figures.block_bytes},
                {"blocks", figures.num_blocks},
                {"sequences", json::array()}};
    for (const Fit& fit : figures.fits) row["sequences"].push_back(fit_json(fit));
    kv["dtypes"].push_back(std::move(row));
  }
  return object;
}

}  // namespace kvcrush::inspect
