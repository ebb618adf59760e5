#include "engine/loader/model_path.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "engine/loader/model_file.h"
#include "tests/unit/loader/builders.h"

namespace kvcrush {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryDirectory;

void expect_leads_to(const std::string& path, const std::string& target, bool is_folder) {
  const Result<ModelPath> found = resolve_model_path(path);
  ASSERT_TRUE(found.ok()) << found.status().message();
  EXPECT_EQ(found->path, target);
  EXPECT_EQ(found->is_folder, is_folder);
}

void expect_error(const std::string& path, const std::string& message,
                  StatusCode code = StatusCode::kInvalidArgument) {
  const Status status = resolve_model_path(path).status();
  EXPECT_EQ(status.code(), code) << message;
  EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
}

// A cache as the hub's client leaves it: files of a snapshot are links into blobs/.
class Cache {
 public:
  explicit Cache(const std::string& name) : repository_(fs::path(root_.path()) / name) {
    fs::create_directories(repository_ / "refs");
    fs::create_directories(repository_ / "blobs");
  }
  std::string root() const { return root_.path(); }
  std::string repository() const { return repository_.string(); }
  std::string snapshot(const std::string& commit) const {
    return (repository_ / "snapshots" / commit).string();
  }
  void set_main(const std::string& text) const { root_.write(relative("refs/main"), text); }
  void add_snapshot(const std::string& commit) const { fs::create_directories(snapshot(commit)); }
  // Moves a file into blobs/ and links to it.
  void add_file(const std::string& commit, const std::string& name, const fs::path& from) const {
    add_snapshot(commit);
    const std::string blob = "blob-of-" + commit + "-" + name;
    fs::copy_file(from, repository_ / "blobs" / blob);
    fs::create_symlink("../../blobs/" + blob, fs::path(snapshot(commit)) / name);
  }
  void add_small_model(const std::string& commit) const {
    const TemporaryDirectory files;
    files.write_small_model();
    for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"})
      add_file(commit, name, files.file(name));
  }

 private:
  std::string relative(const std::string& name) const { return repository_.filename().string() + "/" + name; }

  TemporaryDirectory root_;
  fs::path repository_;
};

TEST(ModelPath, FilesAndFolders) {
  const TemporaryDirectory directory;
  const std::string file = directory.write("one.gguf", std::string("x"));
  expect_leads_to(file, file, false);
  expect_leads_to(directory.path(), file, false);
  directory.write("README.md", std::string("x"));
  expect_leads_to(directory.path(), file, false);

  // A config.json without weights of its own beside GGUF files is not what is meant.
  directory.write("config.json", std::string("{}"));
  expect_leads_to(directory.path(), file, false);
  directory.write("model.safetensors", std::string("x"));
  expect_leads_to(directory.path(), directory.path(), true);
  expect_error(directory.file("model.safetensors"), "name the directory");
}

TEST(ModelPath, AFolderWithASplitModel) {
  const TemporaryDirectory directory;
  directory.write("big-00002-of-00002.gguf", std::string("x"));
  expect_error(directory.path(),
               "the first part of a split model is missing; there are: big-00002-of-00002.gguf");
  const std::string first = directory.write("big-00001-of-00002.gguf", std::string("x"));
  expect_leads_to(directory.path(), first, false);
}

TEST(ModelPath, SeveralModelsAreListed) {
  const TemporaryDirectory directory;
  directory.write("b.gguf", std::string("x"));
  directory.write("a-00001-of-00002.gguf", std::string("x"));
  directory.write("a-00002-of-00002.gguf", std::string("x"));
  expect_error(directory.path(), directory.path() +
                                     ": has 2 GGUF models, name one of them: "
                                     "a-00001-of-00002.gguf, b.gguf");
  for (int i = 0; i < 20; ++i) directory.write("c" + std::to_string(i) + ".gguf", std::string("x"));
  expect_error(directory.path(), "has 22 GGUF models");
  expect_error(directory.path(), " and 14 more");
}

TEST(ModelPath, NothingThere) {
  const TemporaryDirectory directory;
  expect_error(directory.file("absent"), directory.file("absent") + ": no such file or folder",
               StatusCode::kNotFound);
  expect_error(directory.path(),
               "holds no model; expected config.json with safetensors, a .gguf file, or a "
               "Hugging Face cache; there is nothing");
  directory.write("notes.txt", std::string("x"));
  expect_error(directory.path(), "there are: notes.txt");
  const TemporaryDirectory odd;
  odd.write("\x1b[31m", std::string("x"));
  expect_error(odd.path(), "there are: \\x1b[31m");
}

TEST(ModelPath, LinksThatLeadNowhere) {
  const TemporaryDirectory directory;
  fs::create_symlink("nowhere.gguf", directory.file("dangling.gguf"));
  expect_error(directory.file("dangling.gguf"),
               "dangling.gguf: is a link to nowhere.gguf, which is not there");
  expect_error(directory.path(), "dangling.gguf: is a link to nowhere.gguf, which is not there");
  fs::create_symlink("two", directory.file("one"));
  fs::create_symlink("one", directory.file("two"));
  expect_error(directory.file("one"),
               directory.file("one") + ": cannot be opened: Too many levels of symbolic links");
  expect_error(directory.file("one") + "/model", "cannot be opened: Too many levels of symbolic links");
}

// They are opened by name, so that what is wrong with them is what is told.
TEST(ModelPath, FilesOfAFolderThatLeadNowhere) {
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}) {
    const TemporaryDirectory directory;
    directory.write_small_model();
    fs::remove(directory.file(name));
    fs::create_symlink("../../blobs/gone", directory.file(name));
    const Status status = load_model_file(directory.path()).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.message(), directory.file(name) + ": is a link to ../../blobs/gone, which is not there");
    fs::remove(directory.file(name));
    fs::create_directory(directory.file(name));
    EXPECT_EQ(load_model_file(directory.path()).status().message(),
              directory.file(name) + ": is a folder; a file is expected");
  }
  const TemporaryDirectory directory;
  fs::create_directory(directory.file("model.gguf"));
  expect_error(directory.path(), "model.gguf: holds no model");
}

TEST(ModelPath, FoldersThatMayNotBeRead) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const TemporaryDirectory directory;
  fs::create_directory(directory.file("closed"));
  directory.write("closed/model.gguf", std::string("x"));
  fs::permissions(directory.file("closed"), fs::perms::none);
  expect_error(directory.file("closed"), "closed: cannot be listed: Permission denied");
  expect_error(directory.file("closed/model.gguf"), "closed/model.gguf: cannot be opened: Permission denied");
  fs::permissions(directory.file("closed"), fs::perms::owner_all);
}

TEST(ModelPath, ACacheLeadsToTheSnapshotOfMain) {
  const Cache cache("models--org--small-model");
  cache.add_small_model("aaa111");
  expect_leads_to(cache.repository(), cache.snapshot("aaa111"), true);
  cache.add_small_model("bbb222");
  cache.set_main("bbb222\n");
  expect_leads_to(cache.repository(), cache.snapshot("bbb222"), true);
  expect_leads_to(cache.root(), cache.snapshot("bbb222"), true);
  expect_leads_to(cache.snapshot("aaa111"), cache.snapshot("aaa111"), true);
  const Result<ModelFile> model = load_model_file(cache.root());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->path, cache.snapshot("bbb222"));
  EXPECT_EQ(model->config.name, "org/small-model");
}

TEST(ModelPath, ACacheOfGguf) {
  const Cache cache("models--org--small-GGUF");
  const TemporaryDirectory files;
  cache.add_file("aaa", "small.gguf", files.write("small.gguf", testing::small_gguf().build()));
  const Result<ModelFile> model = load_model_file(cache.repository());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model->path, cache.snapshot("aaa") + "/small.gguf");
}

TEST(ModelPath, ACacheThatLeadsNowhere) {
  const Cache cache("models--org--name");
  fs::create_directory(cache.repository() + "/snapshots");
  expect_error(cache.repository(), "has 0 snapshots");
  cache.add_snapshot("aaa");
  cache.add_snapshot("bbb");
  expect_error(cache.repository(),
               cache.repository() +
                   "/snapshots: has 2 snapshots and no refs/main beside it, name one of them: aaa, bbb");
  cache.set_main("ccc");
  expect_error(cache.repository(), "has no 'ccc', which refs/main names; there are: aaa, bbb");
  for (const char* text : {"../../../etc", "", "a b", "\n"}) {
    cache.set_main(text);
    expect_error(cache.repository(), "refs/main: holds '");
  }
  cache.set_main("aaa");
  expect_error(cache.repository(), cache.snapshot("aaa") + ": holds no model");
  fs::create_directories(cache.root() + "/models--org--other");
  expect_error(
      cache.root(),
      "has 2 models of a Hugging Face cache, name one of them: models--org--name, models--org--other");
}

TEST(ModelPath, FoldersInACircle) {
  const TemporaryDirectory directory;
  fs::create_directories(directory.file("snapshots"));
  fs::create_symlink("..", directory.file("snapshots/again"));
  expect_error(directory.path(), "is a folder; a GGUF file is expected");
}

}  // namespace
}  // namespace kvcrush
