#include "engine/loader/model_path.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <system_error>
#include <vector>

#include "engine/core/readable.h"
#include "engine/loader/gguf_split.h"
#include "engine/loader/mapped_file.h"

namespace kvcrush {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxCommitBytes = 256;
constexpr std::size_t kMaxListed = 8;

// Whether a folder has an entry of this name, be it a link to nowhere.
bool has_entry(const fs::path& folder, const char* name) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(folder / name, ignored));
}

// Names in a folder that `wanted` picks, sorted.
Result<std::vector<std::string>> list(const fs::path& folder,
                                      const std::function<bool(const std::string&)>& wanted) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (wanted(name)) names.push_back(std::move(name));
  }
  if (error) return invalid_argument(folder.string() + ": cannot be listed: " + error.message());
  std::sort(names.begin(), names.end());
  return names;
}

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kMaxListed); ++i)
    text += (i == 0 ? "" : ", ") + readable(names[i]);
  if (names.size() > kMaxListed) text += " and " + std::to_string(names.size() - kMaxListed) + " more";
  return text;
}

// The only one of `names`; `what`: "GGUF models".
Result<fs::path> only_one(const fs::path& folder, const std::vector<std::string>& names,
                          const std::string& what) {
  if (names.size() == 1) return folder / names.front();
  return invalid_argument(folder.string() + ": has " + std::to_string(names.size()) + " " + what +
                          ", name one of them: " + listed(names));
}

bool is_later_part(const std::string& name) {
  const std::optional<SplitName> part = parse_split_name(name);
  return part && part->number > 1;
}

// The commit in refs/main: nullopt where there is no such file.
Result<std::optional<std::string>> main_commit(const fs::path& repository) {
  const std::string path = (repository / "refs" / "main").string();
  if (!has_entry(repository / "refs", "main")) return std::optional<std::string>();
  const Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return invalid_argument(file.status().message());
  std::string commit;
  for (const std::byte byte : file->bytes().first(std::min(file->bytes().size(), kMaxCommitBytes)))
    commit += static_cast<char>(byte);
  commit.erase(std::find_if(commit.begin(), commit.end(), [](char c) { return c == '\n' || c == '\r'; }),
               commit.end());
  const bool is_name = !commit.empty() && std::all_of(commit.begin(), commit.end(),
                                                      [](unsigned char c) { return std::isalnum(c) != 0; });
  if (is_name) return std::optional<std::string>(commit);
  return invalid_argument(path + ": holds " + in_quotes(commit) + "; the name of a snapshot is expected");
}

Result<fs::path> pick_snapshot(const fs::path& repository) {
  const Result<std::optional<std::string>> commit = main_commit(repository);
  KVCRUSH_RETURN_IF_ERROR(commit.status());
  const fs::path snapshots = repository / "snapshots";
  const Result<std::vector<std::string>> names = list(snapshots, [](const std::string&) { return true; });
  KVCRUSH_RETURN_IF_ERROR(names.status());
  if (!commit->has_value()) return only_one(snapshots, *names, "snapshots and no refs/main beside it");
  if (std::find(names->begin(), names->end(), **commit) != names->end()) return snapshots / **commit;
  return invalid_argument(snapshots.string() + ": has no '" + **commit +
                          "', which refs/main names; there are: " + listed(*names));
}

Status check_reachable(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    std::error_code no_link;
    const fs::path target = fs::read_symlink(path, no_link);
    if (no_link) return not_found(path.string() + ": no such file or folder");
    return invalid_argument(path.string() + ": is a link to " + readable(target.string()) +
                            ", which is not there");
  }
  if (!error) return {};
  return invalid_argument(path.string() + ": cannot be opened: " + error.message());
}

// A folder without a model of its own that leads to one.
Result<fs::path> follow(const fs::path& folder) {
  if (has_entry(folder, "snapshots")) return pick_snapshot(folder);
  const Result<std::vector<std::string>> models =
      list(folder, [](const std::string& name) { return name.ends_with(".gguf") && !is_later_part(name); });
  KVCRUSH_RETURN_IF_ERROR(models.status());
  if (!models->empty()) return only_one(folder, *models, "GGUF models");
  const Result<std::vector<std::string>> repositories =
      list(folder, [](const std::string& name) { return name.starts_with(kCachePrefix); });
  KVCRUSH_RETURN_IF_ERROR(repositories.status());
  if (!repositories->empty()) return only_one(folder, *repositories, "models of a Hugging Face cache");
  const Result<std::vector<std::string>> parts = list(folder, is_later_part);
  KVCRUSH_RETURN_IF_ERROR(parts.status());
  if (!parts->empty()) {
    return invalid_argument(folder.string() +
                            ": the first part of a split model is missing; there are: " + listed(*parts));
  }
  const Result<std::vector<std::string>> all = list(folder, [](const std::string&) { return true; });
  KVCRUSH_RETURN_IF_ERROR(all.status());
  return invalid_argument(
      folder.string() +
      ": holds no model; expected config.json with safetensors, a .gguf file, or a Hugging "
      "Face cache; there " +
      (all->empty() ? "is nothing" : "are: " + listed(*all)));
}

// Repositories of GGUF files may carry a config.json that is of no use to them.
bool is_hugging_face(const fs::path& folder) {
  if (!has_entry(folder, "config.json")) return false;
  if (has_entry(folder, "model.safetensors") || has_entry(folder, "model.safetensors.index.json"))
    return true;
  const auto models = list(folder, [](const std::string& name) { return name.ends_with(".gguf"); });
  return !models.ok() || models->empty();
}

}  // namespace

Result<ModelPath> resolve_model_path(const std::string& path) {
  fs::path at = path;
  constexpr int kMaxSteps = 4;  // cache, repository, snapshot, file
  for (int step = 0; step < kMaxSteps; ++step) {
    KVCRUSH_RETURN_IF_ERROR(check_reachable(at));
    std::error_code ignored;
    if (!fs::is_directory(at, ignored)) {
      if (at.extension() != ".safetensors") return ModelPath{at.string(), false};
      return invalid_argument(at.string() + ": name the directory that holds this file and its config.json");
    }
    if (is_hugging_face(at)) return ModelPath{at.string(), true};
    Result<fs::path> next = follow(at);
    KVCRUSH_RETURN_IF_ERROR(next.status());
    at = *next;
  }
  return invalid_argument(at.string() + ": is a folder; a GGUF file is expected");
}

}  // namespace kvcrush
