// The unary calls, health, malformed requests, and what a server says before its model is there.
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "server/compression_fields.h"
#include "tests/unit/server/grpc_harness.h"
#include "tests/unit/server/http_client.h"

namespace kvcrush::test {
namespace {

using Service = GrpcTest;

TEST_F(Service, RefusesWhileTheModelLoads) {
  ServerConfig config = server_config();
  config.http_listen = "127.0.0.1:0";
  const std::string port_file = ::testing::TempDir() + "ports.json";
  std::filesystem::remove(port_file);
  config.port_file = port_file;
  server_ = std::make_unique<Server>(config);
  ASSERT_TRUE(server_->listen().ok());
  connect();
  const auto loader = [&](const ServerConfig&, EngineObserver&, const LoadProgress& progress) {
    progress("reading model file");
    EXPECT_EQ(health(""), 2);
    EXPECT_EQ(health("kvcrush.v1.Inference"), 2);
    const HttpAnswer ready = http_ask(server_->http_port(), "GET", "/readyz");
    EXPECT_EQ(ready.status, 503);
    EXPECT_EQ(ready.body, "loading: reading model file\n");
    EXPECT_EQ(http_ask(server_->http_port(), "GET", "/healthz").status, 200);
    EXPECT_EQ(http_ask(server_->http_port(), "GET", "/metrics").status, 200);
    grpc::ClientContext context;
    patient(context);
    EXPECT_EQ(read_all(*stub_->Generate(&context, request("r"))).status.error_code(),
              grpc::StatusCode::UNAVAILABLE);
    EXPECT_FALSE(std::filesystem::exists(port_file));
    return Result<LoadedModel>(scripted_model());
  };
  ASSERT_TRUE(server_->load(loader).ok());
  EXPECT_EQ(health(""), 1);
  EXPECT_EQ(health("kvcrush.v1.Inference"), 1);
  EXPECT_EQ(http_ask(server_->http_port(), "GET", "/readyz").status, 200);
  const std::string metrics = http_ask(server_->http_port(), "GET", "/metrics").body;
  EXPECT_NE(metrics.find("kvcrush_kv_blocks_total 40"), std::string::npos);
  EXPECT_NE(metrics.find("kvcrush_rejected_requests_total{code=\"UNAVAILABLE\"} 1"), std::string::npos);
  std::ostringstream ports;
  ports << std::ifstream(port_file).rdbuf();
  EXPECT_EQ(ports.str(), "{\"grpc_port\":" + std::to_string(server_->grpc_port()) +
                             ",\"http_port\":" + std::to_string(server_->http_port()) + "}\n");
}

TEST_F(Service, FailedLoadIsReturned) {
  server_ = std::make_unique<Server>(server_config());
  ASSERT_TRUE(server_->listen().ok());
  const Status status = server_->load([](const ServerConfig&, EngineObserver&, const LoadProgress&) {
    return Result<LoadedModel>(not_found("no such model"));
  });
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "no such model");
}

TEST_F(Service, SecondServerOnThePortFails) {
  start();
  ServerConfig config = server_config();
  config.listen = "127.0.0.1:" + std::to_string(server_->grpc_port());
  Server second(config);
  const Status status = second.listen();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_NE(status.message().find(config.listen), std::string::npos);
}

TEST_F(Service, InvalidUtf8AndBrokenMessagesAreInvalidArguments) {
  start();
  const std::string bad_text("\x12\x02\x61\xFF", 4);  // field 2, text, 2 bytes
  const std::string truncated("\x12\x7F\x61", 3);     // says 127 bytes, has one
  for (const char* method : {"Generate", "GenerateOnce", "Score"}) {
    for (const std::string& message : {bad_text, truncated}) {
      const grpc::Status status = call_raw(std::string("/kvcrush.v1.Inference/") + method, message);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
      EXPECT_NE(status.error_message().find("UTF-8"), std::string::npos) << status.error_message();
    }
  }
  EXPECT_EQ(call_raw("/kvcrush.v1.Inference/Nothing", "").error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(Service, InvalidArgumentsReachTheClient) {
  start();
  v1::GenerateRequest wrong = request("r1");
  wrong.mutable_sampling()->set_temperature(-1);
  grpc::ClientContext context;
  const grpc::Status status = read_all(*stub_->Generate(&context, wrong)).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(status.error_message().starts_with("sampling.temperature is -1")) << status.error_message();
}

TEST_F(Service, MessagesAboveTheLimitAreRefused) {
  ServerConfig config = server_config();
  config.max_message_bytes = 4096;
  start(config);
  grpc::ClientContext context;
  EXPECT_EQ(read_all(*stub_->Generate(&context, request("r1", std::string(5000, 'a')))).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(Service, TokenizeAndDetokenizeAreInverse) {
  start();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("a<|end|>\xC3\xA9");
  v1::TokenizeResponse tokens;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, tokenize, &tokens).ok());
  EXPECT_EQ(std::vector<int>(tokens.token_ids().begin(), tokens.token_ids().end()),
            (std::vector<int>{'a', kEndToken, 0xC3, 0xA9}));
  EXPECT_EQ(tokens.tokens(2), "\xC3");
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), tokenize.text());
  detokenize.set_skip_special_tokens(true);
  detokenize.mutable_token_ids()->RemoveLast();
  grpc::ClientContext third;
  ASSERT_TRUE(stub_->Detokenize(&third, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "a\xEF\xBF\xBD");
  detokenize.add_token_ids(-1);
  grpc::ClientContext fourth;
  const grpc::Status status = stub_->Detokenize(&fourth, detokenize, &text);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(status.error_message().starts_with("token_ids[3] is -1")) << status.error_message();
}

TEST_F(Service, TokenizeShowsTheRenderedChat) {
  start();
  v1::TokenizeRequest tokenize;
  v1::ChatMessage& message = *tokenize.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hi");
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Tokenize(&context, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.rendered_prompt(), "user: hi\n");
  EXPECT_EQ(tokens.token_ids_size(), 9);
  grpc::ClientContext second;
  EXPECT_EQ(stub_->Tokenize(&second, v1::TokenizeRequest(), &tokens).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(Service, ModelInfoDescribesModelAndDefaults) {
  start();
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetModelInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.model_name(), "scripted");
  EXPECT_EQ(info.vocab_size(), kVocabSize);
  EXPECT_EQ(info.max_context_tokens(), 100'000);
  EXPECT_EQ(info.block_size_tokens(), 16);
  EXPECT_EQ(info.num_blocks(), 40);
  EXPECT_EQ(info.bos_token_id(), -1);
  EXPECT_EQ(info.stop_token_ids(0), kEndToken);
  EXPECT_EQ(info.default_compression().policy(), v1::BASE_POLICY_OFF);
  EXPECT_EQ(info.default_compression().kv_dtype(), v1::KV_DTYPE_F32);
  EXPECT_EQ(info.default_compression().budget_case(), v1::KvCompression::BUDGET_NOT_SET);
  EXPECT_EQ(info.default_max_tokens(), 256);
  EXPECT_EQ(info.device(), "cpu");
  EXPECT_FALSE(info.server_version().empty());
}

TEST_F(Service, ModelInfoResolvesTheDefaultCompression) {
  ServerConfig config = server_config();
  v1::KvCompression given;
  given.set_target_compression(4);
  config.compression = compression_defaults(given, KvDtype::kF32).value();
  start(config);
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->GetModelInfo(&context, {}, &info).ok());
  const CachePolicy picked = policy_for_target(4).value();
  EXPECT_EQ(info.default_compression().SerializeAsString(),
            to_proto(picked, KvDtype::kF32).SerializeAsString());
  EXPECT_EQ(info.default_compression().kv_dtype(), v1::KV_DTYPE_INT4);
}

TEST_F(Service, StatsListRunningRequests) {
  start();
  grpc::ClientContext context;
  patient(context);
  const auto reader = stub_->Generate(&context, request("r1"));
  ASSERT_TRUE(backend_->wait_live("r1"));
  v1::GetStatsResponse stats;
  grpc::ClientContext stats_context;
  ASSERT_TRUE(stub_->GetStats(&stats_context, {}, &stats).ok());
  EXPECT_EQ(stats.requests_running(), 1);
  EXPECT_EQ(stats.blocks_total(), 40);
  ASSERT_EQ(stats.requests_size(), 1);
  EXPECT_EQ(stats.requests(0).request_id(), "r1");
  EXPECT_EQ(stats.requests(0).state(), "decode");
  EXPECT_GT(stats.uptime_s(), 0);
  static_cast<void>(backend_->finish("r1", FinishReason::kStop, std::nullopt));
  EXPECT_TRUE(read_all(*reader).status.ok());
}

TEST_F(Service, ReflectionIsOn) {
  start();
  // ServerReflectionRequest{list_services: "*"}; the stream's first answer names our service.
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  patient(context);
  grpc::CompletionQueue queue;
  const auto next = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call =
      stub.PrepareCall(&context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  call->StartCall(this);
  ASSERT_TRUE(next());
  grpc::Slice slice(std::string("\x3A\x01*"));
  call->Write(grpc::ByteBuffer(&slice, 1), this);
  ASSERT_TRUE(next());
  grpc::ByteBuffer answer;
  call->Read(&answer, this);
  ASSERT_TRUE(next());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(answer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& part : slices)
    bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
  EXPECT_NE(bytes.find("kvcrush.v1.Inference"), std::string::npos);
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, this);
  next();
}

}  // namespace
}  // namespace kvcrush::test
