// Drives the tokenizer and chat templates from Python: one JSON request a line on stdin, one JSON answer a
// line on stdout.
//   {"op": "encode", "hex": bytes, "parse_special": bool, "add_special": bool}   -> {"ids": [...]}
//   {"op": "encode_all", "hexes": [bytes], "parse_special", "add_special"}       -> {"ids": [[...]]}
//   {"op": "encode_pieces", "pieces": [{"text", "from_message"}]}                -> {"ids": [...]}
//   {"op": "decode", "ids": [...], "skip_special": bool}                         -> {"hex": bytes}
//   {"op": "parse", "template": source}                                          -> {"system": bool, "tools":
//   bool}
//   {"op": "render", "template": source, "messages": [...], "tools": [...], "template_kwargs": {...},
//   "bos_token",
//    "eos_token", "add_generation_prompt"}; messages as transformers takes them  -> {"pieces": [...]}
//   {"op": "stream", "ids": [...], "begins_text": bool}                          -> {"parts": [text per
//   token, rest]}
// A refusal is {"error": message}. Started with --model PATH, --tokenizer PATH (a GGUF file or a Hugging Face
// folder of which only the tokenizer is read) or --spec FILE (JSON with the fields of TokenizerSpec);
// "render" and "parse" need none of them. --bench FILE prints the speed of encoding that file instead.
#include <chrono>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/loader/gguf.h"
#include "engine/loader/gguf_tokenizer.h"
#include "engine/loader/hf_tokenizer.h"
#include "engine/loader/mapped_file.h"
#include "engine/loader/model_file.h"
#include "engine/tokenizer/chat_abilities.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/incremental_decoder.h"
#include "engine/tokenizer/tokenizer.h"

namespace {

using Json = nlohmann::ordered_json;
using kvcrush::ChatTemplate;
using kvcrush::PromptPiece;
using kvcrush::Result;
using kvcrush::TokenId;
using kvcrush::Tokenizer;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

std::string to_hex(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  for (const char byte : bytes) {
    const auto value = static_cast<unsigned char>(byte);
    hex += kDigits[value >> 4];
    hex += kDigits[value & 15];
  }
  return hex;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

kvcrush::TokenizerSpec spec_from_json(const Json& json) {
  kvcrush::TokenizerSpec spec;
  spec.model = json.at("model");
  spec.pre_tokenizer = json.at("pre_tokenizer");
  spec.tokens = json.at("tokens").get<std::vector<std::string>>();
  for (const std::string kind : json.at("kinds")) {
    static const std::map<std::string, kvcrush::TokenKind> kinds = {
        {"normal", kvcrush::TokenKind::kNormal},   {"unknown", kvcrush::TokenKind::kUnknown},
        {"control", kvcrush::TokenKind::kControl}, {"user", kvcrush::TokenKind::kUserDefined},
        {"unused", kvcrush::TokenKind::kUnused},   {"byte", kvcrush::TokenKind::kByte}};
    spec.kinds.push_back(kinds.at(kind));
  }
  spec.merges = json.at("merges").get<std::vector<std::string>>();
  spec.bos_id = json.value("bos_id", -1);
  spec.add_bos = json.value("add_bos", false);
  spec.whole_words_first = json.value("whole_words_first", false);
  return spec;
}

template <typename T>
T value_or_throw(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return std::move(result).value();
}

constexpr int kAnyVocabSize = 1 << 20;

kvcrush::TokenizerSpec spec_from_model(const std::string& path) {
  if (!path.ends_with(".gguf")) {
    kvcrush::ModelConfig config;
    config.vocab_size = kAnyVocabSize;
    return value_or_throw(kvcrush::read_hf_tokenizer(path, Json::object(), config));
  }
  const auto file = value_or_throw(kvcrush::MappedFile::open(path));
  const auto gguf = value_or_throw(kvcrush::parse_gguf(file.bytes(), path));
  return value_or_throw(kvcrush::read_gguf_tokenizer(gguf, kAnyVocabSize, path));
}

std::vector<PromptPiece> pieces_from_json(const Json& json) {
  std::vector<PromptPiece> pieces;
  for (const Json& piece : json) pieces.push_back({piece.at("text"), piece.at("from_message")});
  return pieces;
}

kvcrush::ChatMessage message_from_json(const Json& json) {
  kvcrush::ChatMessage message{json.at("role")};
  const Json& content = json.at("content");
  if (content.is_array()) {
    for (const Json& part : content) message.content_parts.push_back(part.at("text"));
  } else {
    message.content = content;
  }
  for (const Json& call : json.value("tool_calls", Json::array())) {
    const Json& function = call.at("function");
    message.tool_calls.push_back(
        {call.value("id", ""), function.at("name"), function.at("arguments").dump()});
  }
  message.tool_call_id = json.value("tool_call_id", "");
  message.name = json.value("name", "");
  message.reasoning_content = json.value("reasoning_content", "");
  message.extra_fields = json.contains("extra_fields") ? json.at("extra_fields").dump() : "";
  return message;
}

// Templates are parsed once, however many conversations they render.
const ChatTemplate& parsed_template(const std::string& source) {
  static std::map<std::string, std::shared_ptr<const ChatTemplate>> parsed;
  auto& found = parsed[source];
  if (found == nullptr) found = value_or_throw(ChatTemplate::parse(source));
  return *found;
}

Json render(const Json& request) {
  const ChatTemplate& chat_template = parsed_template(request.at("template"));
  kvcrush::ChatPrompt prompt;
  for (const Json& message : request.at("messages")) prompt.messages.push_back(message_from_json(message));
  for (const Json& tool : request.value("tools", Json::array())) prompt.tools.push_back(tool.dump());
  if (request.contains("template_kwargs")) prompt.template_kwargs = request.at("template_kwargs").dump();
  prompt.add_generation_prompt = request.value("add_generation_prompt", true);
  const auto variables = value_or_throw(kvcrush::ChatVariables::parse(prompt));
  const auto pieces = value_or_throw(
      chat_template.render(variables, {request.value("bos_token", ""), request.value("eos_token", "")}));
  Json answer = Json::array();
  for (const PromptPiece& piece : pieces)
    answer.push_back({{"text", piece.text}, {"from_message", piece.from_message}});
  return {{"pieces", answer}};
}

Json stream(const Json& request, const std::shared_ptr<const Tokenizer>& tokenizer) {
  kvcrush::IncrementalDecoder decoder(tokenizer, {}, /*skip_special_tokens=*/true, request.at("begins_text"));
  Json parts = Json::array();
  for (const TokenId id : request.at("ids").get<std::vector<TokenId>>()) parts.push_back(decoder.push(id));
  parts.push_back(decoder.flush());
  return {{"parts", parts}};
}

Json answer(const Json& request, const std::shared_ptr<const Tokenizer>& tokenizer) {
  const std::string op = request.at("op");
  if (op == "render") return render(request);
  if (op == "parse") {
    const kvcrush::ChatAbilities abilities =
        kvcrush::find_chat_abilities(parsed_template(request.at("template")));
    return {{"system", abilities.system}, {"tools", abilities.tools}};
  }
  if (tokenizer == nullptr) throw std::runtime_error("\"" + op + "\" needs --model, --tokenizer or --spec");
  const kvcrush::EncodeOptions options{request.value("add_special", false),
                                       request.value("parse_special", true)};
  if (op == "encode_all") {
    Json ids = Json::array();
    for (const std::string hex : request.at("hexes")) {
      ids.push_back(value_or_throw(tokenizer->encode(from_hex(hex), options)));
    }
    return {{"ids", ids}};
  }
  if (op == "encode") {
    return {{"ids", value_or_throw(tokenizer->encode(from_hex(request.at("hex")), options))}};
  }
  if (op == "encode_pieces") {
    return {{"ids", value_or_throw(tokenizer->encode(pieces_from_json(request.at("pieces"))))}};
  }
  if (op == "stream") return stream(request, tokenizer);
  if (op == "decode") {
    const auto ids = request.at("ids").get<std::vector<TokenId>>();
    return {{"hex", to_hex(tokenizer->decode(ids, request.value("skip_special", false)))}};
  }
  throw std::runtime_error("unknown op \"" + op + "\"");
}

void serve(const std::shared_ptr<const Tokenizer>& tokenizer) {
  std::string line;
  while (std::getline(std::cin, line)) {
    Json reply;
    try {
      reply = answer(Json::parse(line), tokenizer);
    } catch (const std::exception& error) {
      reply = {{"error", error.what()}};
    }
    std::cout << reply.dump() << std::endl;
  }
}

void bench(const Tokenizer& tokenizer, const std::string& text) {
  double best_seconds = 1e9;
  std::size_t num_tokens = 0;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    num_tokens = value_or_throw(tokenizer.encode(text)).size();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best_seconds = std::min(best_seconds, elapsed.count());
  }
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::cout << megabytes << " MB, " << num_tokens << " tokens, " << best_seconds * 1e3 << " ms, "
            << megabytes / best_seconds << " MB/s (best of 5)\n";
}

}  // namespace

int main(int argc, char** argv) try {
  std::map<std::string, std::string> options;
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  std::shared_ptr<const Tokenizer> tokenizer;
  if (options.contains("--spec")) {
    tokenizer = value_or_throw(Tokenizer::create(spec_from_json(Json::parse(read_file(options["--spec"])))));
  } else if (options.contains("--tokenizer")) {
    tokenizer = value_or_throw(Tokenizer::create(spec_from_model(options["--tokenizer"])));
  } else if (options.contains("--model")) {
    tokenizer = value_or_throw(
        Tokenizer::create(value_or_throw(kvcrush::load_model_file(options["--model"])).tokenizer));
  }
  if (options.contains("--bench") && tokenizer) {
    bench(*tokenizer, read_file(options["--bench"]));
  } else {
    serve(tokenizer);
  }
  return 0;
} catch (const std::exception& error) {
  std::cerr << "tokenize_tool: " << error.what() << "\n";
  return 1;
}
